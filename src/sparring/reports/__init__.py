"""Reports as files and on the terminal. Render only: every renderer reads a `Report` and nothing else.

Importing this package fills `sparring.auditing.report.RENDERERS`, so that `Report.save` knows the suffixes.
"""

from sparring.auditing.report import RENDERERS
from sparring.reports.as_json import render as _json
from sparring.reports.html import render as _html
from sparring.reports.junit import render as _junit
from sparring.reports.sarif import render as _sarif

RENDERERS.update({".json": _json, ".html": _html, ".xml": _junit, ".sarif": _sarif})
