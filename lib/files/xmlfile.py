"""XML files of labelling tools."""
from pathlib import Path
from xml.etree import ElementTree


def read_xml(path: Path, remedy: str = 'export it again') -> ElementTree.Element:
    """The root of an XML file; ValueError if it is not valid."""
    try:
        return ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError(f'{path} is not valid XML ({error}); {remedy}') from None


def read_voc_objects(path: Path, remedy: str = 'remove it') -> tuple[str, ...]:
    """Class names of the objects in a VOC annotation; ValueError if the file is not one."""
    root = read_xml(path, remedy)
    if root.tag.rpartition('}')[2] != 'annotation':
        raise ValueError(f'{path} is not a VOC annotation (<annotation>); {remedy}')
    return tuple((element.findtext('{*}name') or '').strip() for element in root.iterfind('.//{*}object'))
