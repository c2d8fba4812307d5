"""The Open-i reports for tests: read from the shared folder, never copied into the project."""

import os
import tarfile
import xml.etree.ElementTree as ET
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ARCHIVE = (
    Path(os.environ.get("MEDCLIP_SHARED", ROOT.parent / "shared")) / "openi" / "NLMCXR_reports.tgz"
)

needs_openi = pytest.mark.skipif(
    not ARCHIVE.is_file(), reason=f"the Open-i reports are not at {ARCHIVE}"
)


@cache
def openi_reports() -> list[str]:
    """Findings and impression of each of the 3,955 reports, in the order of their numbers."""
    reports = {}
    with tarfile.open(ARCHIVE) as archive:
        for member in archive:
            if member.name.endswith(".xml"):
                study = ET.parse(archive.extractfile(member)).getroot()
                parts = {a.get("Label"): (a.text or "").strip() for a in study.iter("AbstractText")}
                texts = [parts.get("FINDINGS"), parts.get("IMPRESSION")]
                reports[int(Path(member.name).stem)] = " ".join(filter(None, texts))
    return [reports[number] for number in sorted(reports)]
