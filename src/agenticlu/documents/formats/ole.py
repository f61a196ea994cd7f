"""Files of Office 97 to 2003, and encrypted newer ones: both are compound files ([MS-CFB])."""

from __future__ import annotations

from agenticlu.core.errors import DocumentError
from agenticlu.documents.formats import Parsed, name_of

_KINDS = {
    "EncryptedPackage": ("is encrypted", "Remove the password in the office program."),
    "WordDocument": ("is an old Word file", "docx"),
    "PowerPoint Document": ("is an old PowerPoint file", "pptx"),
    "__substg1.0_": ("is an Outlook message", "Save it as .eml in the mail program."),
}


def parse(data: bytes, source: str) -> Parsed:
    """Reads an Excel workbook; the other kinds are refused with what to type.

    Raises:
        DocumentError: It is another kind of file, encrypted or broken.
    """
    # Names in the directory are in UTF-16; a search finds them without walking its sectors.
    for stream, (reason, hint) in _KINDS.items():
        if stream.encode("utf-16-le") in data:
            if len(hint) == 4:
                name = "FILE" if source == "-" else source
                hint = f"soffice --headless --convert-to {hint} {name}"
            raise DocumentError(f"{name_of(source)} {reason}.", hint=hint)
    if any(name.encode("utf-16-le") in data for name in ("Workbook", "Book")):
        from agenticlu.documents.formats import spreadsheets

        try:
            return spreadsheets.parse_old(data)
        except (ValueError, IndexError) as error:
            raise DocumentError(
                f"{name_of(source)} is a broken or encrypted Excel file: {error}",
                hint="Open it in an office program and save it as xlsx.",
            ) from error
    raise DocumentError(
        f"{name_of(source)} is a compound file of an unknown program.",
        hint="Save it as docx, xlsx or PDF.",
    )
