"""`fashionjax finetune`: from photos to a trained model and a page."""
