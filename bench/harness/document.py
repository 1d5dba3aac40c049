# SPDX-License-Identifier: MIT
"""What results add to a document: tables between two lines each, <!-- table NAME --> and <!-- end of table -->; and pictures behind a line
<!-- picture NAME -->."""
import re

from .results import origin
from .table import markdown_table, skipped_lines

_PICTURE = re.compile(r"(<!-- picture (\w+) -->\n)(?:!\[.*\n)?")
_PLACE = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end of table -->)", re.S)


def _table(columns, result):
    if not result:
        return "Not measured yet.\n"
    lines = markdown_table([c for c in columns if not c.detail], result["rows"])
    lines += ["", origin(result)]
    left_out = skipped_lines(result["rows"])
    if left_out:
        lines += ["", *(f"- {line}" for line in left_out)]
    return "\n".join(lines) + "\n"


def filled(text, columns_of, results, pictures):
    """The document with the tables and pictures of these results. `columns_of` knows the columns of each benchmark, `pictures` are the
    names of those that there are."""
    text = _PLACE.sub(lambda place: place[1] + _table(columns_of[place[2]], results.get(place[2])) + place[3], text)
    return _PICTURE.sub(lambda place: place[1] + (f"![{place[2].replace('_', ' ')}](pictures/{place[2]}.svg)\n" if place[2] in pictures
                                                  else ""), text)
