"""Resolved presets against what the releases' code and scripts say: a line a value, `method preset: file of the release`, then `key value`.

`peak` is the rate after the warm-up, `last` the one at the end, `views.NAME.count` the crops. Where the release's own words need arithmetic, it stands beside them.
"""

from __future__ import annotations

import pytest

from contray import RunConfig
from contray.config import declared_keys
from contray.config.registry import load_method
from contray.model.optim import scaled_lr

RELEASES = """
simclr paper: google-research/simclr, README (ImageNet) and run.py; paper §2.2 and appendix A
  backbone.name resnet50
  backbone.zero_init_residual true         # resnet.py: init_zero
  method.temperature 0.1
  method.projector_hidden 2048             # model_util.py: as wide as the features
  method.projector_dim 128
  optim.name lars
  optim.rate_in_velocity true              # lars_optimizer.py: classic_momentum
  peak 4.8                                 # 0.3 x 4096 / 256
  optim.weight_decay 1e-6                  # paper §2.2
  optim.warmup_epochs 10
  train.batch_size 4096
  views.view.crop 0.08 1
  views.view.jitter 0.8 0.8 0.8 0.2
  views.view.jitter_p 0.8
  views.view.gray 0.2
  views.view.blur 0.5

simclr_v2 paper: google-research/simclr, README (SimCLRv2) and run.py; paper §3 and appendix
  backbone.selective_kernels 0.0625
  backbone.zero_init_residual true
  method.projector_hidden 2048
  optim.name lars
  optim.lr_scaling sqrt
  peak 6.4                                 # 0.1 x sqrt(4096)
  optim.weight_decay 1e-4
  train.batch_size 4096
  train.epochs 800

simclr_v2 resnet152_3x: google-research/simclr, model_util.py
  method.projector_hidden 6144             # 3 x 2048 features

byol paper: deepmind-research, byol/configs/byol.py
  backbone.zero_init_residual true         # dm-haiku, nets/resnet.py: scale_init zeros (the paper: ones)
  method.momentum 0.996
  method.hidden 4096
  method.dim 256
  optim.name lars
  optim.rate_in_velocity false             # byol/utils/optimizers.py: scale after the trace
  optim.trust 1e-3
  peak 3.2                                 # 0.2 x 4096 / 256
  optim.weight_decay 1.5e-6
  optim.momentum 0.9
  optim.warmup_epochs 10
  train.epochs 1000
  views.first.jitter 0.4 0.4 0.2 0.1       # byol/utils/augmentations.py
  views.first.blur 1
  views.second.blur 0.1
  views.second.solarize 0.2

byol e300: deepmind-research, byol/configs/byol.py
  method.momentum 0.99
  optim.lr 0.3
  optim.weight_decay 1e-6
  train.epochs 300

byol e100: deepmind-research, byol/configs/byol.py
  method.momentum 0.99
  optim.lr 0.45
  optim.weight_decay 1e-6
  train.epochs 100

barlow_twins paper: facebookresearch/barlowtwins, main.py; paper §2.2
  backbone.zero_init_residual true
  method.redundancy 0.0051
  method.hidden 8192
  method.dim 8192
  method.bias_lr 0.00075                   # 0.0048 / 0.2 of a gradient that is 1/32 of the global one
  optim.name lars
  optim.trust 0.001
  peak 1.6                                 # 0.2 x 2048 / 256
  last 0.0016
  optim.weight_decay 1.5e-6                # paper; main.py has 1e-6
  train.batch_size 2048
  train.epochs 1000
  optim.warmup_epochs 10
  views.second.solarize 0.2

moco v1: facebookresearch/moco, main_moco.py (8976944~1); paper §3.3
  method.head linear
  method.temperature 0.07
  method.queue_size 65536
  method.momentum 0.999
  method.dim 128
  peak 0.03
  optim.schedule step                      # 120 and 160 of 200
  optim.milestones 0.6 0.8
  optim.weight_decay 1e-4
  train.batch_size 256
  train.epochs 200
  train.norm_groups 8                      # shuffled over 8 GPUs
  views.query.crop 0.2 1
  views.query.jitter 0.4 0.4 0.4 0.4

moco paper: facebookresearch/moco, README: --mlp --moco-t 0.2 --aug-plus --cos
  method.head mlp
  method.temperature 0.2
  method.hidden 2048
  method.momentum_end -1
  optim.schedule cosine
  optim.warmup_epochs 0
  train.epochs 200
  views.query.jitter 0.4 0.4 0.4 0.1
  views.query.blur 0.5

moco_v3 paper: facebookresearch/moco-v3, main_moco.py and CONFIG.md (ResNet-50, 100 epochs)
  backbone.zero_init_residual true
  method.temperature 1
  method.momentum 0.99
  method.layers 2
  method.hidden 4096
  method.dim 256
  optim.name lars
  peak 9.6                                 # 0.6 x 4096 / 256
  optim.weight_decay 1e-6
  optim.warmup_epochs 10
  train.batch_size 4096
  views.first.crop 0.2 1                   # --crop-min=.2

moco_v3 vit_s: facebookresearch/moco-v3, CONFIG.md and vits.py
  backbone.heads 0                         # the architecture's: 12
  backbone.init moco_v3
  backbone.frozen_patches true             # --stop-grad-conv1
  backbone.positions sincos
  method.temperature 0.2
  method.layers 3
  optim.name adamw
  peak 2.4e-3                              # 1.5e-4 x 4096 / 256
  optim.weight_decay 0.1
  optim.warmup_epochs 40
  train.epochs 300
  views.first.crop 0.08 1

simsiam paper: facebookresearch/simsiam, main_simsiam.py
  backbone.zero_init_residual true
  method.dim 2048
  method.hidden 512
  method.projector_layers 3
  method.predictor_schedule constant       # --fix-pred-lr
  optim.name sgd
  peak 0.1                                 # 0.05 x 512 / 256
  optim.weight_decay 1e-4
  optim.momentum 0.9
  train.batch_size 512
  train.epochs 100
  views.view.crop 0.2 1

swav paper: facebookresearch/swav, scripts/swav_800ep_pretrain.sh and main_swav.py
  augment.std 0.228 0.224 0.225            # src/multicropdataset.py
  method.temperature 0.1
  method.epsilon 0.05
  method.iterations 3
  method.prototypes 3000
  method.hidden 2048
  method.dim 128
  method.queue_size 0
  method.frozen_steps 313
  optim.name larc
  optim.trust 0.001
  peak 4.8
  last 0.0048
  optim.weight_decay 1e-6
  optim.warmup_epochs 10
  optim.warmup_start 0.0625                # 0.3 of 4.8
  train.batch_size 4096                    # 64 GPUs of 64
  train.epochs 800
  train.norm_groups 8                      # groups of 8 GPUs, of 64 rows each
  views.large.crop 0.14 1
  views.small.crop 0.05 0.14
  views.small.size 96
  views.small.count 6

swav b256: facebookresearch/swav, scripts/swav_400ep_bs256_pretrain.sh
  method.queue_size 3840
  method.queue_epoch 15
  method.frozen_steps 5005
  peak 0.6
  last 0.0006
  optim.warmup_epochs 0
  train.batch_size 256
  train.epochs 400

deepcluster_v2 paper: facebookresearch/swav, scripts/deepclusterv2_800ep_pretrain.sh
  method.temperature 0.1
  method.prototypes 3000
  method.heads 3
  method.iterations 10
  peak 4.8
  last 0.0048
  optim.weight_decay 1e-6
  train.batch_size 4096
  train.epochs 800

deepcluster paper: facebookresearch/deepcluster, main.sh and main.py
  backbone.name alexnet
  method.clusters 10000
  method.pca 256
  optim.name sgd
  peak 0.05
  optim.weight_decay 1e-5
  optim.schedule constant
  train.batch_size 256
  train.epochs 500                         # the paper's 41.0 % (issue 32); main.py: 200

dino paper: facebookresearch/dino, README (vanilla) and main_dino.py
  backbone.name vit_small
  backbone.heads 6                         # vision_transformer.py
  backbone.init trunc_normal               # vision_transformer.py
  backbone.drop_path 0.1
  method.outputs 65536
  method.hidden 2048
  method.bottleneck 256
  method.head_norm none
  method.student_temperature 0.1
  method.teacher_temperature 0.04
  method.centre_momentum 0.9
  method.momentum 0.996
  method.freeze_epochs 1
  optim.name adamw
  peak 1e-3                                # 5e-4 x 512 / 256
  last 1e-6                                # --min_lr
  optim.weight_decay 0.04
  optim.weight_decay_end 0.4
  optim.decay_norms false                  # utils.py: get_params_groups
  optim.warmup_epochs 10
  optim.clip 3
  optim.clip_by tensor
  train.batch_size 512                     # 8 GPUs of 64
  train.epochs 100
  views.large_a.crop 0.4 1
  views.large_a.blur 1
  views.large_b.blur 0.1
  views.large_b.solarize 0.2
  views.small.crop 0.05 0.4
  views.small.count 8

dino resnet50: facebookresearch/dino, README (ResNet-50 and other convnets)
  optim.name sgd
  peak 0.06                                # 0.03 x 512 / 256
  last 1e-6
  optim.weight_decay 1e-4
  optim.weight_decay_end -1                # constant
  optim.clip 3
  train.batch_size 512
  train.epochs 100
  views.large_a.crop 0.14 1
  views.small.crop 0.05 0.14
  views.small.count 8

instdisc paper: zhirongw/lemniscate.pytorch, main.py
  method.temperature 0.07
  method.negatives 4096
  method.bank_momentum 0.5
  method.dim 128
  optim.name sgd
  peak 0.03
  optim.weight_decay 1e-4
  train.batch_size 256
  train.epochs 200
  views.view.crop 0.2 1
  views.view.gray 0.2
  views.view.jitter 0.4 0.4 0.4 0.4

invaspread paper: mangye16/Unsupervised_Embedding_Learning, demo_seen.py
  augment.std 0.2023 0.1994 0.201
  eval.knn.temperature 0.1                 # kNN(..., 200, args.batch_t)
  method.temperature 0.1
  method.dim 128
  peak 0.03                                # not scaled, at batch 128
  optim.weight_decay 5e-4
  train.batch_size 128

cmc paper: HobbitLong/CMC, train_CMC.py
  method.temperature 0.07
  method.negatives 16384
  method.bank_momentum 0.5
  method.dim 128
  peak 0.03                                # not scaled, at batch 128
  optim.weight_decay 1e-4
  optim.milestones 0.5 0.667 0.833         # 120, 160 and 200 of 240
  train.batch_size 128
  train.epochs 240

infomin paper: HobbitLong/PyContrast, pycontrast/options
  last 3e-5                                # learning/base_trainer.py: lr_decay_rate^3
  method.queue_size 65536
  method.momentum 0.999                    # alpha
  method.dim 128
  peak 0.03
  optim.schedule cosine
  optim.weight_decay 1e-4
  train.batch_size 256
  train.epochs 200

mae paper: facebookresearch/mae, PRETRAIN.md, main_pretrain.py and models_mae.py
  backbone.name vit_base
  backbone.init mae
  backbone.positions sincos
  method.mask_ratio 0.75
  method.target norm_pix
  method.decoder_dim 512
  method.decoder_depth 8
  method.decoder_heads 16
  optim.name adamw
  optim.betas 0.9 0.95
  peak 2.4e-3                              # 1.5e-4 x 4096 / 256
  optim.weight_decay 0.05
  optim.warmup_epochs 40
  train.batch_size 4096
  train.epochs 800
  views.view.crop 0.2 1

cae dalle: Atten4Vis/CAE, scripts/cae_base_800e.sh and tools/run_pretraining.py
  backbone.init mae                        # models/modeling_cae.py: Xavier
  backbone.drop_path 0.1
  backbone.layer_scale 0.1
  method.mask_ratio 0.5                    # 98 of 196
  method.regressor_blocks 4
  method.decoder_blocks 4
  method.alignment 2
  optim.betas 0.9 0.999                    # furnace/optim_factory.py: torch's, since the script gives none
  peak 1.5e-3
  last 1e-5
  optim.weight_decay 0.05
  optim.warmup_epochs 20
  optim.clip 3
  train.batch_size 2048                    # 32 GPUs of 64
  train.epochs 800

vicreg paper: facebookresearch/vicreg, main_vicreg.py, augmentations.py and README
  backbone.zero_init_residual true
  method.invariance 25
  method.variance 25
  method.covariance 1
  method.hidden 8192
  method.dim 8192
  optim.name lars
  optim.trust 0.001
  optim.rate_in_velocity false
  peak 1.6                                 # 0.2 x 2048 / 256
  last 0.0016
  optim.weight_decay 1e-6
  optim.warmup_epochs 10
  train.batch_size 2048
  train.epochs 1000
  views.first.crop 0.08 1
  views.first.jitter 0.4 0.4 0.2 0.1
  views.first.blur 1
  views.second.blur 0.1
  views.second.solarize 0.2

lejepa paper: rbalestr-lab/lejepa, README and scripts/launch_views_ablation.md
  backbone.name vit_large
  backbone.patch 14
  backbone.drop_path 0.1
  method.weight 0.05
  method.knots 17                          # lejepa/univariate/epps_pulley.py
  method.reach 3
  method.dim 512
  peak 5e-4
  last 5e-7
  optim.weight_decay 0.05
  train.batch_size 512                     # of 2 + 6 views
  train.epochs 100
  views.large.count 2
  views.large.crop 0.3 1
  views.small.count 6
  views.small.size 98
  views.small.crop 0.05 0.3
  views.small.jitter 0.4 0.4 0.2 0.1
  views.small.blur 0.5
  views.small.solarize 0.2

lejepa imagenette: rbalestr-lab/lejepa, MINIMAL.md
  backbone.patch 8
  method.weight 0.02
  method.slices 256
  method.hidden 2048
  method.dim 16
  peak 2e-3
  last 1e-3
  optim.weight_decay 0.05
  optim.warmup_epochs 1
  train.batch_size 256
  train.epochs 800
  views.large.count 4
  views.large.crop 0.08 1
  views.large.jitter 0.8 0.8 0.8 0.2

siglip paper: google-research/big_vision, models/proj/image_text/two_towers.py, optax.py and siglip_lit_coco.py; paper §3.2 and §4.2
  optim.decay_norms false                  # wd_mults: kernels alone
  optim.clip 1
  backbone.name vit_base
  method.temperature 0.1                   # t' = ln 10
  method.bias -10

ibot paper: bytedance/ibot, README (ViT-S/16, 800 epochs) and main_ibot.py
  backbone.name vit_small
  backbone.heads 6
  backbone.init trunc_normal
  backbone.drop_path 0.1
  method.outputs 8192
  method.mask_share 0.5                    # --pred_ratio 0 0.3
  method.mask_ratio 0.1 0.5                # --pred_ratio_var 0 0.2
  method.teacher_temperature 0.07
  method.teacher_warmup 30
  method.momentum 0.996
  method.freeze_epochs 1
  peak 2e-3                                # 5e-4 x 1024 / 256
  last 1e-6
  optim.weight_decay 0.04
  optim.weight_decay_end 0.4
  optim.warmup_epochs 10
  optim.clip 3
  optim.clip_by tensor
  train.batch_size 1024                    # 16 GPUs of 64
  train.epochs 800
  views.large_a.crop 0.25 1
  views.small.crop 0.05 0.25
  views.small.count 10

dinov2 paper: facebookresearch/dinov2, configs/ssl_default_config.yaml, train/vitl14.yaml and data/transforms.py
  backbone.drop_path 0.3
  backbone.layer_scale 1e-5
  method.outputs 65536
  method.bottleneck 256
  method.mask_share 0.5
  method.mask_ratio 0.1 0.5
  method.koleo 0.1
  method.momentum 0.992
  method.teacher_temperature 0.07
  method.layer_decay 0.9
  method.patch_rate 0.2
  peak 4e-3                                # for 1024
  last 1e-6
  optim.weight_decay 0.04
  optim.weight_decay_end 0.4
  optim.clip 3
  train.epochs 100
  views.large_a.crop 0.32 1
  views.large_a.blur 0                     # GaussianBlur applies with 1 - p
  views.large_b.blur 0.9
  views.small.blur 0.5
  views.small.crop 0.05 0.32
  views.small.count 8
  views.large_a.interpolation antialiased_cubic

ijepa paper: facebookresearch/ijepa, configs/in1k_vith14_ep300.yaml, src/masks/multiblock.py, src/helper.py and src/transforms.py
  backbone.init trunc_normal
  backbone.positions sincos
  method.targets 4
  method.target_scale 0.15 0.2
  method.target_ratio 0.75 1.5
  method.context_scale 0.85 1
  method.min_keep 10
  method.predictor_dim 384
  method.momentum 0.996
  peak 1e-3
  last 1e-6
  optim.weight_decay 0.04
  optim.weight_decay_end 0.4
  optim.warmup_epochs 40
  optim.warmup_start 0.2                   # 2e-4
  train.batch_size 2048
  views.view.crop 0.3 1
  views.view.flip 0
  views.view.interpolation antialiased     # torchvision's, of PIL images

data2vec paper: facebookresearch/data2vec_vision, beit/README.md, run_cyclical.py, modeling_cyclical.py and datasets.py
  backbone.init beit
  backbone.drop_path 0.25
  backbone.layer_scale 1e-4
  method.beta 2
  method.momentum 0.9998
  peak 2e-3
  last 1e-5
  optim.weight_decay 0.05
  optim.warmup_epochs 10
  optim.clip 3
  train.batch_size 2048
  train.epochs 800
  views.view.crop 0.08 1
  views.view.jitter 0.4 0.4 0.4 0
  views.view.interpolation antialiased_cubic

simmim paper: microsoft/SimMIM, configs/vit_base__800ep, models/simmim.py and data/data_simmim.py
  backbone.init beit
  backbone.drop_path 0.1
  backbone.layer_scale 0.1
  method.mask_ratio 0.6
  method.mask_patch 32
  peak 4e-4                                # 1e-4 for 512
  optim.weight_decay 0.05
  optim.warmup_epochs 10
  optim.schedule step
  optim.milestones 0.875                   # 700 of 800
  optim.clip 5
  train.batch_size 2048
  train.epochs 800
  views.view.crop 0.67 1
  views.view.interpolation antialiased     # torchvision's, of PIL images

distill paper: lightly-ai/lightly-train, _methods/distillationv3 and its transform
  method.queue_size 8192
  method.temperature 0.07
  optim.decay_norms false
  optim.weight_decay 1e-6
  optim.clip 1
  views.view.crop 0.14 1
  views.view.interpolation area

densecl paper: WXinlong/DenseCL, configs/selfsup/densecl/densecl_imagenet_200ep.py
  backbone.zero_init_residual false
  method.temperature 0.2
  method.dense 0.5
  method.queue_size 65536
  method.momentum 0.999
  method.head_norm none
  method.hidden 2048
  method.dim 128
  optim.name sgd
  peak 0.03
  optim.weight_decay 1e-4
  optim.schedule cosine
  train.batch_size 256
  train.epochs 200
  train.norm_groups 8                      # shuffled over 8 GPUs
  views.query.crop 0.2 1
  views.query.jitter 0.4 0.4 0.4 0.1
  views.query.gray 0.2
  views.query.blur 0.5

densecl coco: WXinlong/DenseCL, configs/selfsup/densecl/densecl_coco_800ep.py
  peak 0.3
  optim.weight_decay 1e-4
  train.epochs 800

simclr cifar: vturrisi/solo-learn, scripts/pretrain/cifar/simclr.yaml and augmentations/symmetric.yaml
  method.temperature 0.2
  method.projector_hidden 2048
  method.projector_dim 256
  method.projector_norm none               # solo/methods/simclr.py
  peak 0.4
  views.view.crop 0.08 1
  views.view.jitter 0.8 0.8 0.8 0.2
  views.view.blur 0.5

byol cifar: vturrisi/solo-learn, scripts/pretrain/cifar/byol.yaml and augmentations/asymmetric.yaml
  method.momentum 0.99
  method.hidden 4096
  method.dim 256
  peak 1
  optim.weight_decay 1e-5
  views.first.crop 0.08 1
  views.first.blur 0
  views.first.jitter 0.4 0.4 0.2 0.1
  views.second.solarize 0.2

barlow_twins cifar: vturrisi/solo-learn, scripts/pretrain/cifar/barlow.yaml
  method.hidden 2048
  method.dim 2048
  method.redundancy 0.0051                 # solo/methods/barlow_twins.py
  method.loss_scale 0.1
  method.bias_lr 1
  peak 0.3
  last 0
  optim.weight_decay 1e-4

moco cifar: vturrisi/solo-learn, scripts/pretrain/cifar/mocov2plus.yaml and augmentations/symmetric_weak.yaml
  method.directions 2
  method.queue_size 32768
  method.temperature 0.2
  method.momentum 0.99
  method.momentum_end 0.999
  method.hidden 2048
  method.dim 256
  optim.name sgd
  peak 0.3
  optim.weight_decay 1e-4
  views.query.crop 0.08 1
  views.query.jitter 0.4 0.4 0.4 0.1
  views.query.blur 0.5

clip paper: openai/CLIP and mlfoundations/open_clip, open_clip_train/params.py and model_configs/RN50.json
  method.dim 1024
  optim.betas 0.9 0.999

moco_v3 cifar: vturrisi/solo-learn, scripts/pretrain/cifar/mocov3.yaml
  views.first.interpolation cubic
  method.temperature 0.2
  method.momentum 0.99
  peak 0.3
  optim.weight_decay 1e-6
  views.first.crop 0.08 1

simsiam cifar: vturrisi/solo-learn, scripts/pretrain/cifar/simsiam.yaml
  method.dim 2048
  method.hidden 512
  method.projector_layers 3
  optim.name sgd
  peak 0.5
  optim.weight_decay 1e-5

swav cifar: vturrisi/solo-learn, scripts/pretrain/cifar/swav.yaml
  method.prototypes 3000
  method.queue_size 3840
  method.queue_epoch 50
  method.frozen_steps 390                  # 2 epochs
  method.hidden 2048
  method.dim 128
  optim.name lars
  peak 0.6
  last 0
  optim.weight_decay 1e-6

deepcluster_v2 cifar: vturrisi/solo-learn, scripts/pretrain/cifar/deepclusterv2.yaml
  method.prototypes 3000
  method.heads 3
  peak 0.6
  last 0.0006
  optim.warmup_epochs 11
  optim.warmup_start 0
  optim.weight_decay 1e-6

dino cifar: vturrisi/solo-learn, scripts/pretrain/cifar/dino.yaml and solo/methods/dino.py
  method.outputs 4096
  method.bottleneck 256
  method.head_norm none
  method.teacher_temperature 0.07
  method.momentum 0.9995
  method.freeze_epochs 1
  optim.name lars
  peak 0.3
  optim.weight_decay 1e-6
  optim.weight_decay_end -1
  optim.clip 0
  views.large_a.crop 0.08 1

vicreg cifar: vturrisi/solo-learn, scripts/pretrain/cifar/vicreg.yaml and solo/losses/vicreg.py
  method.invariance 25
  method.variance 50                       # 25, of the sum over both views
  method.covariance 1
  method.hidden 2048
  method.dim 2048
  peak 0.3
  last 0
  optim.weight_decay 1e-4
  views.first.crop 0.2 1
  views.first.jitter 0.4 0.4 0.2 0.1
  views.first.blur 0
  views.first.solarize 0.1
  views.second.solarize 0.1

nnclr cifar: vturrisi/solo-learn, scripts/pretrain/cifar/nnclr.yaml and augmentations/asymmetric.yaml
  method.temperature 0.2
  method.queue_size 65536
  method.hidden 2048
  method.predictor_hidden 4096
  method.dim 256
  peak 0.4
  optim.weight_decay 1e-5
  views.first.crop 0.08 1
  views.first.jitter 0.4 0.4 0.2 0.1
  views.first.blur 0
  views.first.solarize 0
  views.second.solarize 0.2

simclr cifar_lightly: lightly-ai/lightly, docs/source/getting_started/benchmarks/cifar10_benchmark.py
  method.temperature 0.5                   # lightly/loss/ntx_ent_loss.py
  method.projector_hidden 512
  method.projector_dim 128
  peak 0.24                                # 0.06 x 512 / 128
  optim.weight_decay 5e-4
  views.view.jitter 0.4 0.4 0.4 0.1

moco cifar_lightly: lightly-ai/lightly, cifar10_benchmark.py
  method.directions 2
  method.temperature 0.1
  method.queue_size 8192                   # its note on batch 512
  method.momentum 0.99
  peak 0.24
  optim.weight_decay 5e-4

byol cifar_lightly: lightly-ai/lightly, cifar10_benchmark.py
  method.hidden 1024
  method.momentum 0.99
  method.momentum_schedule constant
  peak 0.06                                # 0.06 x 512 / 128 of a loss that is a quarter of the paper's
  optim.weight_decay 2e-3                  # 5e-4 at four times the rate

simsiam cifar_lightly: lightly-ai/lightly, cifar10_benchmark.py
  method.projector_layers 2
  method.output_norm bn
  method.predictor_schedule decay
  peak 0.06                                # not scaled
  optim.weight_decay 5e-4
  views.view.crop 0.2 1

barlow_twins cifar_lightly: lightly-ai/lightly, cifar10_benchmark.py
  method.projector_layers 2
  method.hidden 2048
  method.dim 2048
  method.redundancy 0.005                  # lightly/loss/barlow_twins_loss.py
  method.bias_lr 1
  peak 0.24

swav cifar_lightly: lightly-ai/lightly, cifar10_benchmark.py
  method.prototypes 512
  method.hidden 512
  method.frozen_steps 0
  peak 4e-3                                # 1e-3 x 512 / 128
  optim.weight_decay 1e-6
  views.large.crop 0.14 1

dino cifar_lightly: lightly-ai/lightly, cifar10_benchmark.py
  method.outputs 2048
  method.head_layers 2
  method.head_norm hidden
  method.momentum 0.99
  method.momentum_schedule constant
  method.freeze_epochs 0
  method.teacher_temperature 0.04          # lightly/loss/dino_loss.py
  peak 0.24
  optim.weight_decay 5e-4
  views.large_a.crop 0.4 1
  views.large_b.solarize 0.2
"""


def read(text: str) -> dict[tuple[str, str], dict[str, str]]:
    """(method, preset) -> key -> value, as text."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    rows: dict[str, str] = {}
    for line in text.strip().splitlines():
        if line.startswith(" "):
            key, value = line.partition("#")[0].split(maxsplit=1)
            assert key not in rows, line
            rows[key] = value.strip()
        elif line:
            head, source = line.split(": ", 1)
            assert "/" in source or "." in source, f"{head} names no source"
            method, preset = head.split()
            assert (method, preset) not in found, f"{head} stands here twice"
            rows = found[method, preset] = {}
    return found


TABLE = read(RELEASES)


@pytest.mark.parametrize(("method", "preset"), list(TABLE), ids=str)
def test_a_preset_has_the_releases_values(method: str, preset: str) -> None:
    config, rows = RunConfig.make(method, preset=preset), dict(TABLE[method, preset])
    peak = scaled_lr(config.optim, config.train.batch_size)
    for name, rate in (("peak", peak), ("last", peak * config.optim.lr_end)):
        if name in rows:
            assert rate == pytest.approx(float(rows.pop(name)), rel=6e-3), name
    keys, flat = dict(declared_keys(config)), config.flat()
    assert {key: flat[key] for key in rows} == {key: keys[key].parse(key, value.split()) for key, value in rows.items()}


@pytest.mark.parametrize(("method", "preset"), [pair for pair in TABLE if pair[1] == "cifar"], ids=str)
def test_solo_learns_recipes_have_its_schedule(method: str, preset: str) -> None:
    """scripts/pretrain/cifar/*.yaml, solo/methods/base.py: batch 256, 1000 epochs, CIFAR's pixel statistics, the warm-up from 3e-5 over 10 epochs."""
    config = RunConfig.make(method, preset=preset)
    assert (config.backbone.name, config.backbone.stem, config.backbone.zero_init_residual) == ("resnet18", "cifar", False)
    assert (config.train.batch_size, config.train.epochs, config.optim.schedule) == (256, 1000, "cosine")
    assert (config.augment.mean, config.augment.std) == ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    if method != "deepcluster_v2":
        assert config.optim.warmup_epochs == 10
        assert config.optim.warmup_start * config.optim.lr == pytest.approx(3e-5)
    if config.optim.name == "lars":
        assert (config.optim.trust, config.optim.clip_lr, config.optim.rate_in_velocity) == (0.02, True, False)
    assert {view.size for view in config.views.values()} == {32}
    assert sum(view.count for view in config.views.values()) == 2


@pytest.mark.parametrize("method", [method for method, preset in TABLE if preset == "cifar_lightly"])
def test_lightlys_recipes_have_its_schedule(method: str) -> None:
    """cifar10_benchmark.py: 200 epochs in batches of 512, SGD of momentum 0.9 (SwAV: Adam), a cosine without warm-up, no blur."""
    config = RunConfig.make(method, preset="cifar_lightly")
    assert (config.backbone.name, config.backbone.stem, config.backbone.zero_init_residual) == ("resnet18", "cifar", False)
    assert (config.train.batch_size, config.train.epochs) == (512, 200)
    assert (config.optim.schedule, config.optim.warmup_epochs, config.optim.lr_end, config.optim.momentum) == (
        "cosine",
        0,
        0,
        0.9,
    )
    assert config.optim.name == ("adamw" if method == "swav" else "sgd")
    assert {view.blur for view in config.views.values()} == {0.0}


BORROWED = ("90.74", "92.58", "92.10", "92.94", "93.10", "90.51", "89.17", "89.52", "88.85", "92.07", "91.88")


def test_instdisc_on_cifar_is_compared_as_in_the_release() -> None:
    """zhirongw/lemniscate.pytorch, `cifar.py`: its pixels, and nce_t 0.1 of the loss and of k-NN."""
    config = RunConfig.make("instdisc", preset="cifar")
    assert config.augment.std == (0.2023, 0.1994, 0.2010)
    assert config.flat()["method.temperature"] == config.flat()["eval.knn.temperature"] == 0.1


def test_numbers_of_others_are_said_to_be_theirs() -> None:
    """What a preset of CIFAR quotes is another library's measurement, and the text says whose and that it was not run here."""
    for method, preset in TABLE:
        about = load_method(method).presets[preset].about
        if preset in ("cifar", "cifar_lightly"):
            assert ("solo-learn measured" if preset == "cifar" else "lightly measured") in about
            assert "not run here" in about
        else:
            assert not any(number in about for number in BORROWED), (method, preset)
