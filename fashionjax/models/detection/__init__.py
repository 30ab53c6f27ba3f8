"""Mask R-CNN and Cascade Mask R-CNN on a feature pyramid (He et al. 2017; Cai & Vasconcelos 2018)."""
