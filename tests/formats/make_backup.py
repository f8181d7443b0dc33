"""Makes backup_N.xz: a backup of the state in data_dir_1.tar.xz, in the present format of backups.

    python -m tests.formats.make_backup TARGET.xz

Run once for a format, as `make_data_dir` is.
"""

from __future__ import annotations

import asyncio
import lzma
import sys
import tempfile
from pathlib import Path

from raftkv.kv.records import FORMAT
from raftkv.storage.backup_format import BackupEncoder, BackupHeader
from tests.formats.opening import extracted, opened


async def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as directory:
        data_dir, _ = extracted("data_dir_1", Path(directory))
        async with opened(data_dir) as disk:
            with disk.machine.view() as view, disk.store.read() as reader:
                meta = view.meta
                header = BackupHeader(
                    state_format=FORMAT,
                    cluster_id=7,
                    node_id=1,
                    index=meta.applied_index,
                    term=meta.applied_term,
                    revision=meta.revision,
                    compacted_revision=meta.compacted_revision,
                    as_of=0,
                    time_ms=meta.time_ms,
                    last_token=meta.last_token,
                    made_at_ms=1_795_000_000_000,
                    software="0.1.0",
                )
                content = b"".join(BackupEncoder(header).encode(reader.scan(b"\0", None)))
        await asyncio.to_thread(target.write_bytes, lzma.compress(content, preset=9))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
