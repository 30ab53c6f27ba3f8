"""Combined global descriptors of the garments that a frozen detector finds: K-Fashion's recommendations.

    fashionjax train --config=experiments/cascade.py:stage=kfashion --workdir=runs/kf \
        --config.init_from=runs/df2
    fashionjax train --config=experiments/recommendation.py --workdir=runs/rec --config.init_from=runs/kf
    fashionjax evaluate --checkpoint=runs/rec --split=test+train+val --out=runs/rec/test
    fashionjax segment photos/ --checkpoint=runs/kf --database=garments
    fashionjax embed --database=garments --checkpoint=runs/rec --pairs=pairs.csv
    fashionjax recommend look.jpg --database=garments --category=skirt --top=10

| argument | row | published Recall@k, Hit@k, MRR@k at 1; at 20 |
|---|---|---|
| (none) | CGD on Cascade Mask R-CNN, K-Fashion | 12.84, 57.76, 57.76; 41.61, 81.57, 63.85 |
| `pca=true` | the same, whitened by a PCA of 256 components | 13.64, 62.22, 62.22; 44.60, 84.56, 67.92 |
| `faithful=zoo` | the same with what upstream's code does: docs/faithful.md, K1 to K6 | |
| `descriptors=SMG` (S mean, M maximum, G power mean 3, in any combination, as cgd.py) | none | |
| `small=true`, `tiny=true` | none: small Mask R-CNN, synthetic instances | |

Three power means (1, 2, 3) of the 7 x 7 box features, 256 values each; batch-hard triplets (margin 0.1) and
smoothed classification (0.1, temperature 0.5) of the product that an image shows; Adam 1e-3. Upstream
shuffles images, so that few have a partner in their batch; here `sampler=identity` brings two of each product
together and `sampler=shuffle` is upstream's order. Constants: src/configs.yaml, src/cgd/*.py of
Donghwa-KIM/fashion-recommendation.
"""

from experiments import cascade, cgd, common

SAMPLERS = {"identity": "identity", "shuffle": "shuffle"}
DESCRIPTORS = {"kfashion": "", **cgd.DESCRIPTORS}
ARGUMENTS = {
    "descriptors": ("kfashion", "SMG"),
    "sampler": tuple(SAMPLERS),
    "faithful": tuple(common.SWITCHED),
    "pca": ("false", "true"),
    "small": ("false", "true"),
}
QUIRKS = (
    "k1_first_box_features",
    "k2_no_positive_index0",
    "k3_frozen_after_evaluation",
    "k4_select_by_last_batch",
    "k5_randomised_pca",
    "k6_complement_searches_all",
)


def get_config(arg: str | None = None):
    args = common.parse_arg(
        arg,
        descriptors="kfashion",
        sampler="identity",
        faithful="none",
        pca=False,
        small=False,
        tiny=False,
    )
    config = cascade.get_config("stage=kfashion")
    config.task, config.pair_labels = "recommendation", True
    config.test_split = "test+train+val"
    config.model.mask_form = "polygon"  # the detector keeps its mask head, which is not run
    config.model.head_width = 256
    config.model.descriptors = common.choose("descriptors", args["descriptors"], DESCRIPTORS)
    config.model.whiten = 256 if args["pca"] else 0  # components that embeddings are compared through
    config.model.settings.score_threshold = 0.5
    config.loss = {"id": 1.0, "batch_hard": 1.0}
    config.retrieval = {"sampler": common.choose("sampler", args["sampler"], SAMPLERS), "per_item": 2}
    config.retrieval.update({"margin": 0.1, "id_temperature": 0.5, "smoothing": 0.1})
    config.batch_size, config.epochs, config.steps = 20, 0, 100_000
    config.optim.update({"optimizer": "adam", "lr": 1e-3, "weight_decay": 0.0, "clip_norm": 1.0})
    config.optim.update({"decay_biases": False, "schedule": "step", "warmup_steps": 0})
    config.optim.boundary_steps = (60_000, 80_000)
    config.optim.frozen = (r"(?!cgd/)",)
    config.init_skip = (r"cgd/",)
    config.eval_every, config.save_every = 10_000, 5000
    config.best, config.best_mode = "standard/validation_loss", "min"
    if common.choose("faithful", args["faithful"], common.SWITCHED):
        config.quirks, config.best = QUIRKS, "zoo/last_batch_loss"
        config.retrieval.sampler = "shuffle"
    if args["small"] or args["tiny"]:
        small(config)
    if args["tiny"]:
        common.tiny_detector(config)
        config.synthetic.set = "train=24,val=12,test=12,size=64,pairs=6"
        config.model.head_width, config.eval_every = 8, 2
        config.model.settings.score_threshold = 0.01  # the detector may be untrained
    return config


def small(config) -> None:
    """On the small detector and synthetic images of 300 products. Ours."""
    optim = config.optim.copy_and_resolve_references()
    common.small_detector(config)
    config.optim.update(optim.to_dict())
    config.synthetic.set = "train=3000,val=300,test=300,size=128,pairs=300"
    config.model.head_width = 64
    config.test_split = "test+train+val"
    config.batch_size, config.steps, config.eval_every, config.save_every = 16, 2000, 500, 500
    config.optim.boundary_steps, config.optim.frozen = (1200, 1600), (r"(?!cgd/)",)
    config.optim.clip_norm = 1.0
    config.best, config.best_mode = "standard/validation_loss", "min"
