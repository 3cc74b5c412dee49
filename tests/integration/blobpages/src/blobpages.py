"""Pages that are written and read over HTTP: text in Data.fs, a content in a blob.

Runs within the Zope of the tests, which finds it as the module `blobpages`. Nothing here is protected.
"""

from AccessControl.class_init import InitializeClass
from AccessControl.SecurityInfo import ClassSecurityInfo
from OFS.Folder import Folder
from OFS.SimpleItem import SimpleItem
from ZODB.blob import Blob


class Page(SimpleItem):
    """A text and a blob."""

    meta_type = "Page"
    security = ClassSecurityInfo()
    security.declareObjectPublic()

    def __init__(self, id, text):
        self.id = id
        self.text = text
        self.blob = Blob()

    @security.public
    def read(self):
        """The text, and the content of the blob behind it."""
        with self.blob.open() as file:
            return self.text + "|" + file.read().decode()


class Pages(Folder):
    """The folder of all pages."""

    meta_type = "Pages"
    security = ClassSecurityInfo()
    security.declareObjectPublic()

    @security.public
    def write(self, id, text):
        """Write a page, or write it anew."""
        page = self._getOb(id, None)
        if page is None:
            self._setObject(id, Page(id, text))
            page = self._getOb(id)
        page.text = text
        with page.blob.open("w") as file:
            file.write((text * 50).encode())
        return "written"

    @security.public
    def ids(self):
        """The ids of all pages, one a line."""
        return "\n".join(self.objectIds("Page"))


InitializeClass(Page)
InitializeClass(Pages)


def make_pages(app):
    """Put the folder into the application, for `bin/instance run`."""
    import transaction

    if "pages" not in app.objectIds():
        app._setObject("pages", Pages("pages"))
    transaction.commit()
