"""The first steps with frontswap: store pages, load them, and change the chain while it holds them.

Run it with `python examples/quickstart.py`; it uses a few MiB of RAM and of /var/tmp, and leaves nothing behind.
"""

import os

from frontswap import CompressedRam, Frontswap, PlainRam, SwapFile

page = b"a page is 4096 bytes of anything".ljust(64, b".") * 64
out = bytearray(4096)

with Frontswap([CompressedRam("1MiB"), SwapFile("/var/tmp", size="8MiB")]) as fs:
    fs.init(0, pages=1_000_000)

    answer = fs.store(0, 17, page)
    print(f"page 17: accepted={answer.accepted} by {answer.backend}")
    print(f"loaded: {fs.load(0, 17, out)}, the same bytes: {bytes(out) == page}")

    fs.invalidate_page(0, 17)
    print(f"after invalidate_page it loads: {fs.load(0, 17, out)}")

    # Random bytes do not compress: 512 pages are twice the RAM of the first backend, and the coldest go to the file.
    pages = {offset: os.urandom(4096) for offset in range(512)}
    accepted = sum(fs.store(0, offset, data).accepted for offset, data in pages.items())
    zpool, file = fs.backends
    print(f"{accepted} of {len(pages)} accepted; {file.stats().stored_pages > 0=}")

    # Capacity changes at any moment, also to below what is held: pages go down, none is lost.
    zpool.capacity = "256KiB"
    print(f"{zpool.stats().mem_used_total <= 256 * 1024=}, {fs.curr_pages()=}")

    # Only 20 pages may stay above the disk.
    print(f"{fs.shrink(target_pages=20) <= 20=}")

    # Backends come and go while pages are held.
    fs.add_backend(PlainRam("4MiB"), position=0)
    fs.remove_backend(zpool)
    zpool.close()
    print("chain:", [backend.name for backend in fs.backends])

    for offset, data in pages.items():
        assert fs.load(0, offset, out), offset
        assert out == data, offset
    print(f"all {len(pages)} pages came back, bit for bit; {fs.stats().loads} loads")
