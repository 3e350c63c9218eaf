"""Reports as files and on the terminal. Render only: every renderer reads a `Report` and nothing else.

Importing this package fills `sparring.auditing.report.RENDERERS`, so that `Report.save` knows the suffixes.
"""

from sparring.auditing.report import RENDERERS
from sparring.reports import as_json, html, junit, sarif

RENDERERS.update(
    {
        ".json": as_json.render,
        ".html": html.render,
        ".xml": junit.render,
        ".sarif": sarif.render,
    }
)
