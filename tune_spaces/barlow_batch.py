"""Study: Barlow Twins and SimCLR in small batches (Zbontar et al. 2021, §4 and figure 2)."""

from contray.studies import Above, Minus

CLAIM = "Barlow Twins loses less than SimCLR when batches get smaller"
SOURCE = "Zbontar et al. 2021, figure 2, https://arxiv.org/abs/2103.03230"
METHOD = "barlow_twins"
SPACE = {
    "Barlow Twins": {},
    "Barlow Twins, small batch": {"train.batch_size": 256},
    "SimCLR": {"method.name": "simclr"},
    "SimCLR, small batch": {"method.name": "simclr", "train.batch_size": 256},
}
METRIC = "linear_top1"
EXPECT = [Above(Minus("Barlow Twins, small batch", "Barlow Twins"), Minus("SimCLR, small batch", "SimCLR"))]
SCALES = {
    "digits": {
        "SPACE": {  # as many samples
            "Barlow Twins": {},
            "Barlow Twins, small batch": {"train.batch_size": 16, "train.steps": 800},
            "SimCLR": {"method.name": "simclr"},
            "SimCLR, small batch": {"method.name": "simclr", "train.batch_size": 16, "train.steps": 800},
        }
    },
    "paper": {"train.epochs": 300},
}
COST = {"digits": 9, "paper": "4 x 300 epochs of ResNet-50: about 1,800 GPU hours"}
SMALL = "ten classes are told apart with few negatives, and a correlation of 128 features is estimated from 16 rows"
