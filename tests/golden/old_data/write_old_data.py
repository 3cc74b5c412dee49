"""Write a Data.fs with blobs, by an old ZODB: `python write_old_data.py FOLDER LAYOUT` with the Python that has it.

Runs with ZODB3 3.8.6 and 3.10.7 under Python 2.7 and with ZODB 4 and 5 under Python 3; make_old_data.py calls it. The
site lives some days: pages, blobs, changes, undone ones, packs. FOLDER gets `Data.fs`, `blobs`, and `ends.json`: the
sizes of Data.fs after some of the commits that follow the last pack, each the end of a transaction. LAYOUT is that of
the blobs, bushy or lawn.
"""

import json
import os
import sys
import time

for folder in os.environ.get("OLD_PACKAGES", "").split(os.pathsep):
    if folder:
        import site

        site.addsitedir(folder)

import transaction
import ZODB
from persistent.mapping import PersistentMapping
from ZODB.blob import Blob, BlobStorage
from ZODB.FileStorage import FileStorage

FOLDER, LAYOUT = sys.argv[1:]
DATAFS = os.path.join(FOLDER, "Data.fs")


def opened():
    blobs = os.path.join(FOLDER, "blobs")
    if not os.path.exists(blobs):
        os.makedirs(blobs)
        with open(os.path.join(blobs, ".layout"), "w") as file:
            file.write(LAYOUT)
    plain = FileStorage(DATAFS)
    # ZODB 3.8 has blobs in a storage around FileStorage only; the others know it too.
    return ZODB.DB(BlobStorage(blobs, plain))


def page(number, length):
    return PersistentMapping({"title": "Page %d" % number, "text": ("old words %d " % number) * length})


def commit(connection, note, change):
    transaction.begin()
    root = connection.root()
    change(root)
    root._p_changed = True
    transaction.get().note(note)
    transaction.get().setUser("admin")
    transaction.commit()


def write_page(number):
    def change(root):
        root["page%d" % number] = page(number, 20)

    return change


def write_blob(name, content):
    def change(root):
        blob = root.get(name)
        if blob is None:
            blob = root[name] = Blob()
        file = blob.open("w")
        file.write(content)
        file.close()

    return change


def live(db, connection):
    """Commits; gives the size of Data.fs after each."""
    sizes = []

    def done(note, change):
        commit(connection, note, change)
        sizes.append(os.path.getsize(DATAFS))

    for number in range(4):
        done("page %d" % number, write_page(number))
        done("image %d" % number, write_blob("image%d" % number, os.urandom(300 + 100 * number)))
    done("a new image", write_blob("image1", b"changed " * 40))
    done("deleted", lambda root: root.pop("page2", None))
    undo = db.undoInfo(0, 1)[0]["id"]
    db.undo(undo)
    transaction.commit()
    sizes.append(os.path.getsize(DATAFS))
    connection.sync()
    return sizes


def main():
    db = opened()
    connection = db.open()
    for _ in range(2):
        live(db, connection)
        commit(connection, "gone", lambda root: root.pop("image0", None))
        time.sleep(1.1)
        until = time.time()
        # What comes after that moment keeps its undone changes through the pack.
        live(db, connection)
        db.pack(until)
        connection.sync()
    sizes = live(db, connection)
    connection.close()
    db.close()
    with open(os.path.join(FOLDER, "ends.json"), "w") as file:
        json.dump({"ends": sizes[2::3] + sizes[-1:]}, file)


main()
