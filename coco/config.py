"""Download, unpack, prepare and verify MS COCO 2014; config_coco.sh runs this.

    ./config_coco.sh                            about 21 GB of archives, as much again unpacked
    ./config_coco.sh --archives DIR             archives that are already in DIR are not downloaded
    ./config_coco.sh --masks coco               fill polygons like COCO's own tools

If interrupted, the same command resumes. The images come from the 2017 archives, which hold the images of 2014 without
the split in their names.
"""
from coco.dataset import LISTS, OFFICIAL, ROOT, spec
from coco.prepare import add_mask_flag, prepare
from lib.process.ending import run_script
from lib.setup.datasetup import Archive, make_parser, set_up

SERVER = 'http://images.cocodataset.org'
INSTANCES = r'(annotations/instances_(?:train|val)20(?:14|17)\.json)'
# No checksums are published for them; a .zip has one for each file.
ARCHIVES = [*(Archive(name, INSTANCES, urls=(f'{SERVER}/annotations/{name}',))
              for name in ('annotations_trainval2014.zip', 'annotations_trainval2017.zip')),
            *(Archive(name, r'(?:train|val)2017/(\d{12}\.jpg)', r'Images/\1', urls=(f'{SERVER}/zips/{name}',))
              for name in ('val2017.zip', 'train2017.zip'))]


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__doc__, './config_coco.sh', ROOT, LISTS)
    add_mask_flag(parser)
    args = parser.parse_args(argv)
    set_up(args, spec(args.data_root, args.lists), ARCHIVES,
           lambda: prepare(args.data_root, args.lists, args.masks, args.workers), OFFICIAL, 'run_coco.sh')


if __name__ == '__main__':
    run_script(main)
