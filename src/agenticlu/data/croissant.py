"""The Croissant description of a data set: what is in which column of which file.

Format: https://docs.mlcommons.org/croissant/docs/croissant-spec-1.0.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agenticlu.data.licences import Licence
from agenticlu.data.rows import COLUMNS, ColumnType

CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{
        name: f"cr:{name}"
        for name in (
            *("citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty"),
            *("fileObject", "fileSet", "format", "includes", "isLiveDataset", "jsonPath", "key"),
            *("md5", "parentField", "path", "recordSet", "references", "regex", "repeated"),
            *("replace", "samplingRate", "separator", "source", "subField", "transform"),
        )
    },
}
"""The names of Croissant 1.0; a reader warns of any other context."""
_TYPES: dict[ColumnType, str] = {
    "text": "sc:Text",
    "texts": "sc:Text",
    "float": "sc:Float",
    "int": "sc:Integer",
    "ints": "sc:Integer",
    "bool": "sc:Boolean",
}
_LISTS: frozenset[ColumnType] = frozenset({"texts", "ints", "messages"})


def render_croissant(
    files: Mapping[str, Mapping[str, Any]], name: str, description: str, licence: Licence | None
) -> dict[str, Any]:
    """Returns the description as JSON-LD.

    Args:
        files: Each file's name to its `sha256` and `bytes`; those that are no rows are left out.
        name: Of the data set.
        description: One sentence.
        licence: None when nobody stated one.
    """
    paths = [path for path in files if path.endswith(".parquet")]
    described: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": name,
        "description": description,
    }
    if licence is not None:
        described["license"] = str(licence)
    described["distribution"] = [
        {
            "@type": "cr:FileObject",
            "@id": path,
            "name": path,
            "contentUrl": path,
            "contentSize": f"{files[path]['bytes']} B",
            "encodingFormat": "application/x-parquet",
            "sha256": files[path]["sha256"],
        }
        for path in paths
    ]
    described["recordSet"] = [_record_set(path) for path in paths]
    return described


def _record_set(path: str) -> dict[str, Any]:
    kind = path.partition("/")[0]
    name = path.removesuffix(".parquet").replace("/", "-")
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "field": [_field(path, name, *column) for column in COLUMNS[kind].items()],
    }


def _field(path: str, record_set: str, column: str, kind: ColumnType) -> dict[str, Any]:
    source: dict[str, Any] = {"fileObject": {"@id": path}, "extract": {"column": column}}
    field: dict[str, Any] = {"@type": "cr:Field", "@id": f"{record_set}/{column}", "name": column}
    if kind in _LISTS:
        field["repeated"] = True
    if kind == "messages":
        field["subField"] = [
            {
                "@type": "cr:Field",
                "@id": f"{record_set}/{column}/{part}",
                "name": part,
                "dataType": "sc:Text",
                "source": {**source, "transform": {"jsonPath": part}},
            }
            for part in ("role", "content")
        ]
    else:
        field["dataType"] = _TYPES[kind]
    return {**field, "source": source}
