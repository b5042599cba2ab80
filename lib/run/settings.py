"""The settings in which data sets differ, in one table: by stage, then by preset of the data set.

A given flag beats the table, and the table beats the flag's default, which reproduces the paper on VOC. A value that
depends on the size of the images is a function of the data set's specification.
"""
import math

# In every stage that has the flag.
COMMON = {
    'voc12': {},
    'coco': {},
    'toy': {'width': 0.125, 'amp': 'auto'},
    'own': {'amp': 'auto'},
}
SETTINGS = {
    'train_cam': {
        'voc12': {'fsl_weight': 1.0},
        'coco': {'fsl_weight': 0.2},
        'toy': {'crop_size': 96, 'long_side': (96, 144), 'view2_scale': 0.75, 'epochs': 5, 'lr': 0.03},
        'own': {'min_steps': 300, 'momentum': 0.9, 'lr': 0.002, 'crop_size': lambda spec: spec.scaled(448),
                'long_side': lambda spec: (spec.scaled(448), spec.scaled(768)),
                'view2_scale': lambda spec: min(0.6, 0.3 * spec.enlargement)},
    },
    'infer_cam': {
        'toy': {'scales': (0.75, 1.25), 'seed_alphas': (1.0, 5.0)},
        'own': {'seed_alphas': 'auto', 'background_score': 'auto'},      # chosen by lib/choose.py
    },
    'train_aff': {
        'toy': {'crop_size': 96, 'epochs': 5, 'lr': 0.03, 'momentum': 0.9, 'dropout': False},
        'own': {'min_steps': 300, 'momentum': 0.9, 'lr': 0.002, 'crop_size': lambda spec: spec.scaled(448)},
    },
    'infer_aff': {
        'toy': {'scale': 1.5, 'alpha': 0.8, 'walk_log2_steps': 0},
        # Tuned on photos. A walk of t steps reaches as far as t ** 0.5: at half the size a quarter of the steps does.
        'own': {'alpha': 'auto', 'beta': 16.0,
                'walk_log2_steps': lambda spec: max(1, round(6 - 2 * math.log2(spec.enlargement)))},
    },
    'train_seg': {
        'voc12': {'max_steps': 20000},
        'coco': {'max_steps': 200000},
        'toy': {'max_steps': 220, 'crop_size': 96, 'scale': (0.75, 1.25), 'lr': 0.0015, 'head_lr': 12.0, 'dilation': 2,
                'fov_channels': 128, 'bn_momentum': 0.1, 'dropout': False, 'match_areas': True},
        'own': {'max_steps': lambda spec: max(600, len(spec.samples(spec.train_split)) // 2),      # 4 epochs of 8
                'batch_size': 8, 'lr': 0.003, 'bn_momentum': 0.1, 'dropout': False,
                'dilation': lambda spec: max(2, round(12 / spec.enlargement)),
                'crop_size': lambda spec: spec.scaled(448)},
    },
    'infer_seg': {'toy': {'scales': (0.75, 1.25)}},
    'eval': {'own': {'background_score': 'auto'}},
}


def row_of(stage: str, preset: str) -> dict:
    """The settings of a stage for a preset of COMMON; '' for a script that is not a stage."""
    return {**COMMON[preset], **SETTINGS.get(stage, {}).get(preset, {})}
