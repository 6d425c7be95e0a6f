"""One set of chats, written in every format: the readers' tests read them back.

A chat is ``(id, system | None, turns)``; a turn is ``(role, pieces)``; a piece is text or ``(kind, file name)``.
"""

import base64
import csv
import io
import json
import tarfile
from pathlib import Path

from PIL import Image

from data_pipelines.images import load_image
from data_pipelines.record import Sample
from data_pipelines.video import load_video

RED, BLUE, CLIP = ("image", "red.png"), ("image", "blue.jpg"), ("video", "clip.gif")
CHATS = [
    ("one", None, [("user", [RED, "Which colour?"]), ("assistant", ["red"])]),
    ("two", "Be brief.", [("user", [RED, BLUE, "Same?"]), ("assistant", ["no"])]),
    ("text", None, [("user", ['Say\n\thi, "you"']), ("assistant", ["hé 語\u2028"])]),
    ("inside", None, [("user", ["First ", BLUE, "then ", RED]), ("assistant", ["ok"])]),
    ("turns", None, [("user", [RED, "A?"]), ("assistant", ["a"]), ("user", [BLUE, "B?"]), ("assistant", ["b"])]),
    ("film", None, [("user", [CLIP, "What moves?"]), ("assistant", ["nothing"])]),
    ("both", None, [("user", [RED, CLIP, "And?"]), ("assistant", ["yes"])]),
]


def make_media(folder: Path) -> None:
    Image.new("RGB", (5, 4), "red").save(folder / "red.png")
    Image.new("RGB", (6, 6), "blue").save(folder / "blue.jpg")
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(folder / "clip.gif", save_all=True, append_images=frames[1:])


def media(chat, kind):
    pieces = (piece for _, said in chat[2] for piece in said if isinstance(piece, tuple))
    return [name for its_kind, name in pieces if its_kind == kind]


def tagged(pieces, video="video"):
    tags = {"image": "<image>\n", "video": f"<{video}>\n"}
    return "".join(piece if isinstance(piece, str) else tags[piece[0]] for piece in pieces)


def turns(chat, role="role", content="content", names=("user", "assistant"), video="video"):
    roles = dict(zip(("user", "assistant"), names))
    first = [] if chat[1] is None else [{role: "system", content: chat[1]}]
    return [*first, *({role: roles[who], content: tagged(pieces, video)} for who, pieces in chat[2])]


def llava(chat, video="video"):
    record = {"id": chat[0], "conversations": turns(chat, "from", "value", ("human", "gpt"), video)}
    for kind in ("image", "video"):
        if names := media(chat, kind):
            record[kind] = names[0] if len(names) == 1 else names
    return record


def llava_image_for_video(chat):
    return llava(chat, video="image" if not media(chat, "image") else "video")


def swift(chat):
    lists = {f"{kind}s": media(chat, kind) for kind in ("image", "video")}
    return {"id": chat[0], "messages": turns(chat), **{key: names for key, names in lists.items() if names}}


def sharegpt(chat):
    record = swift((chat[0], None, chat[2]))
    record["conversations"] = turns((chat[0], None, chat[2]), "from", "value", ("human", "gpt"))
    del record["messages"]
    return {**record, **({} if chat[1] is None else {"system": chat[1]})}


def parts(chat, part):
    """Content as parts; ``part`` makes one of a medium."""
    first = [] if chat[1] is None else [{"role": "system", "content": chat[1]}]

    def content(pieces):
        if len(pieces) == 1 and isinstance(pieces[0], str):
            return pieces[0]
        return [{"type": "text", "text": piece} if isinstance(piece, str) else part(*piece) for piece in pieces]

    return {"id": chat[0], "messages": [*first, *({"role": who, "content": content(said)} for who, said in chat[2])]}


def hugging_face(chat):
    return parts(chat, lambda kind, name: {"type": kind, kind: name})


def parts_and_lists(chat):
    return {**swift(chat), **parts(chat, lambda kind, name: {"type": kind})}


def openai_paths(chat):
    return parts(chat, lambda kind, name: {"type": f"{kind}_url", f"{kind}_url": {"url": name, "detail": "low"}})


def openai_data(folder):
    def part(kind, name):
        data = base64.b64encode((folder / name).read_bytes()).decode()
        return {"type": f"{kind}_url", f"{kind}_url": {"url": f"data:{kind}/{name[-3:]};base64,{data}"}}

    return lambda chat: parts(chat, part)


def alpaca(chat):
    said = [tagged(pieces) for _, pieces in chat[2]]
    pairs = [said[k : k + 2] for k in range(0, len(said), 2)]
    record = {"id": chat[0], "instruction": pairs[-1][0], "output": pairs[-1][1], "history": pairs[:-1]}
    lists = {f"{kind}s": media(chat, kind) for kind in ("image", "video")}
    return {**record, **lists, **({} if chat[1] is None else {"system": chat[1]})}


def query(chat):
    names = {"instruction": "query", "output": "response"}
    return {names.get(key, key): value for key, value in alpaca(chat).items()}


def write_jsonl(path: Path, records) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def write_array(path: Path, records, indent=None) -> Path:
    path.write_text(json.dumps(list(records), indent=indent, ensure_ascii=False), encoding="utf-8")
    return path


def stored(folder: Path, names):
    return [{"bytes": (folder / name).read_bytes(), "path": name} for name in names]


def finevision_table(folder: Path, chats):
    import pyarrow

    def texts(chat):
        said = ["".join(p for p in pieces if isinstance(p, str)) for _, pieces in chat[2]]
        return [{"user": said[k], "assistant": said[k + 1]} for k in range(0, len(said), 2)]

    return pyarrow.Table.from_pylist(
        [{"id": c[0], "images": stored(folder, media(c, "image")), "texts": texts(c)} for c in chats]
    )


def messages_table(folder: Path, chats):
    import pyarrow

    rows = [{"id": c[0], "messages": turns(c), "images": stored(folder, media(c, "image")),
             "videos": stored(folder, media(c, "video"))} for c in chats]  # fmt: skip
    return pyarrow.Table.from_pylist(rows)


def write_parquet(path: Path, table, rows=2) -> Path:
    from pyarrow import parquet

    parquet.write_table(table, path, row_group_size=rows)
    return path


def write_arrow(path: Path, table, stream: bool) -> Path:
    import pyarrow

    new = pyarrow.ipc.new_stream if stream else pyarrow.ipc.new_file
    with new(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return path


def tar_members(folder: Path, chats, named=True):
    """``(name, bytes)`` of the members of a shard, sample by sample."""
    for chat in chats:
        names = [(f"{chat[0]}.{k}.{name}", name) for k, name in enumerate(dict.fromkeys(
            [*media(chat, "image"), *media(chat, "video")]))]  # fmt: skip
        yield from ((member, (folder / name).read_bytes()) for member, name in names)
        record, member_of = swift(chat), {name: member for member, name in names}
        for key in ("images", "videos"):
            if key in record:
                record[key] = [member_of[name] for name in record[key]]
        record = record if named else {k: v for k, v in record.items() if k not in ("images", "videos")}
        yield f"{chat[0]}.json", json.dumps(record).encode()


def write_tar(path: Path, members, mode="w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_tsv(path: Path, folder: Path, chats, header=("index", "image", "question", "answer")) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\r\n")  # so that it quotes both
        writer.writerow(header)
        for chat in chats:
            pictures = [base64.b64encode((folder / name).read_bytes()).decode() for name in media(chat, "image")]
            image = "" if not pictures else pictures[0] if len(pictures) == 1 else repr(pictures)
            (_, asked), (_, answer) = chat[2]
            writer.writerow([chat[0], image, "".join(p for p in asked if isinstance(p, str)), answer[0]])
    return path


def always(chat):
    return True


def pictures_first(chat):
    """No system, no video, and every picture ahead of the first question's text."""
    places = [(t, p) for t, (_, pieces) in enumerate(chat[2]) for p, x in enumerate(pieces) if isinstance(x, tuple)]
    return chat[1] is None and not media(chat, "video") and places == [(0, p) for p in range(len(places))]


def one_question(chat):
    return pictures_first(chat) and len(chat[2]) == 2


JSON = {  # name → a chat's record, or that of a folder's chat
    "llava": lambda folder: llava,
    "llava, <image> for video": lambda folder: llava_image_for_video,
    "ms-swift": lambda folder: swift,
    "sharegpt": lambda folder: sharegpt,
    "messages": lambda folder: hugging_face,
    "parts and lists": lambda folder: parts_and_lists,
    "openai, paths": lambda folder: openai_paths,
    "openai, data URIs": openai_data,
    "alpaca": lambda folder: alpaca,
    "query": lambda folder: query,
}
FILES = {  # name → (what it can express, writer)
    **{
        name: (always, lambda folder, chats, make=make: write_jsonl(folder / "x.jsonl", map(make(folder), chats)))
        for name, make in JSON.items()
    },
    "JSON array": (always, lambda folder, chats: write_array(folder / "x.json", map(llava, chats))),
    "indented array": (always, lambda folder, chats: write_array(folder / "x.json", map(swift, chats), 2)),
    "finevision": (pictures_first, lambda f, c: write_parquet(f / "x.parquet", finevision_table(f, c))),
    "parquet": (always, lambda f, c: write_parquet(f / "x.parquet", messages_table(f, c))),
    "arrow file": (always, lambda f, c: write_arrow(f / "x.arrow", messages_table(f, c), stream=False)),
    "arrow stream": (always, lambda f, c: write_arrow(f / "x.arrow", messages_table(f, c), stream=True)),
    "webdataset": (always, lambda f, c: write_tar(f / "x.tar", tar_members(f, c))),
    "webdataset, gzip": (always, lambda f, c: write_tar(f / "x.tar.gz", tar_members(f, c), "w:gz")),
    "vlmeval": (one_question, lambda f, c: write_tsv(f / "x.tsv", f, c)),
}


def content_of(part):
    if part["type"] == "text":
        return part["text"]
    value = part[part["type"]]
    frames = [load_image(value)] if part["type"] == "image" else load_video(value)
    return part["type"], [(frame.size, frame.tobytes()) for frame in frames]


def meaning(sample):
    """What a read sample says, its media decoded."""
    assert isinstance(sample, Sample), sample
    said = [
        (m["role"], [m["content"]] if isinstance(m["content"], str) else [content_of(part) for part in m["content"]])
        for m in sample.messages
    ]
    return sample.id, said


def expected(folder: Path, chat):
    """What a chat says, without any reader."""
    first = [] if chat[1] is None else [("system", [chat[1]])]

    def pieces(said):
        return [p if isinstance(p, str) else content_of({"type": p[0], p[0]: str(folder / p[1])}) for p in said]

    return chat[0], [*first, *((who, pieces(said)) for who, said in chat[2])]
