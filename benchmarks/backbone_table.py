"""Print the table of docs/backbones.md: the properties of --backbone timm:NAME, one row per network.

    python -m benchmarks.backbone_table resnet50 vit_small_patch14_dinov2 vit_tiny_patch16_224@8

NAME@STRIDE is a network with --output-stride STRIDE. Weights are random; nothing is downloaded.
"""
import sys

from lib.net.timm_backbone import TimmBackbone

NAMES = '''
vit_tiny_patch16_224 vit_tiny_patch16_224@8 deit_tiny_distilled_patch16_224 deit3_small_patch16_224
vit_small_patch14_dinov2 vit_small_patch14_reg4_dinov2 vit_small_patch14_reg4_dinov2@7
vit_small_patch16_dinov3 vit_base_patch16_clip_224 vit_base_patch16_siglip_224 eva02_small_patch14_224
vit_pe_core_tiny_patch16_384 beitv2_base_patch16_224 vit_relpos_small_patch16_224 xcit_nano_12_p16_224
swin_tiny_patch4_window7_224 swin_tiny_patch4_window7_224@16 swinv2_tiny_window8_256 maxvit_pico_rw_256@16
pvt_v2_b0@16 davit_tiny@16 focalnet_tiny_srf@16 caformer_s18@16 efficientvit_b0@16 hrnet_w18_small@8
convnext_tiny convnextv2_atto mambaout_femto@16 resnet50 regnetx_002 tf_efficientnet_lite0
tf_efficientnet_lite1 tf_efficientnet_lite2 mobilenetv3_small_050@16 mobilevit_xxs densenet121@16 vgg11_bn@16
coat_lite_tiny volo_d1_224 hiera_tiny_224 swin_tiny_patch4_window7_224@8
'''


def row(word: str) -> str:
    """One network as a row; the reason if it is refused."""
    name, _, stride = word.partition('@')
    flag = f'`{name}`' + (f' at {stride}' if stride else '')
    try:
        backbone = TimmBackbone(name, int(stride) if stride else None)
    except ValueError as error:
        reason = str(error).rpartition(';')[0].removeprefix(f'timm:{name} ')
        return f'| {flag} | refused: {reason.removeprefix("cannot be used as a backbone: ")} | | |'
    count = sum(value.numel() for value in backbone.parameters()) / 1e6
    return f'| {flag} | {backbone.stride} | {", ".join(map(str, backbone.taps.values()))} | {count:.1f} |'


if __name__ == '__main__':
    print('| network | stride | channels of conv4, conv5, conv6 | million parameters in use |\n|---|---|---|---|')
    for word in sys.argv[1:] or NAMES.split():
        print(row(word), flush=True)
