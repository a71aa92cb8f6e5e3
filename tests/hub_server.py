"""A small Hub on loopback: enough of its HTTP protocol for the real huggingface_hub client to push and to pull.

Repositories live in memory. Small files come in commits, large ones by Git LFS before them. `Hub.fail` lets uploads
break off, `Hub.moved` has somebody else commit before one, `Hub.declared` tells sizes of files that are not theirs, and
`Hub.requests` is what was asked, in order.
"""

import base64
import hashlib
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN, OWN = "hf_right", ("ada", "user")  # whoever has the token may write below these names
LARGE = (".safetensors", ".parquet", ".npy", ".png")  # kept by LFS, as the Hub does

SPACE_CARD = """---
title: {}
emoji: 🌍
sdk: docker
pinned: false
---

Check out the configuration reference at https://huggingface.co/docs/hub/spaces-config-reference
"""


class Hub(ThreadingHTTPServer):
    """Serves while the ``with`` block runs; ``url`` is for ``HF_ENDPOINT``."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repos, self.blobs, self.requests = {}, {}, []
        self.fail, self.moved, self.declared = False, False, {}

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def files(self, name, kind="models", revision="main"):
        """Contents by path of a branch."""
        repo = self.repos[kind, name]
        return {path: self.blobs[oid] for path, oid in repo["commits"][repo["branches"][revision]].items()}

    def put(self, name, files, kind="models"):
        """Commit files as somebody else would, in the browser."""
        repo = self.repos.setdefault((kind, name), new_repo())
        self.commit(repo, "main", {path: self.keep(content) for path, content in files.items()})

    def keep(self, content):
        oid = hashlib.sha256(content).hexdigest()
        self.blobs[oid] = content
        return oid

    def commit(self, repo, branch, added, deleted=()):
        files = dict(repo["commits"][repo["branches"][branch]])
        files = {path: oid for path, oid in files.items() if path not in deleted} | added
        sha = hashlib.sha1(json.dumps([len(repo["commits"]), files]).encode()).hexdigest()
        repo["commits"][sha], repo["branches"][branch] = files, sha
        return sha


def new_repo(private=False):
    sha = hashlib.sha1(b"").hexdigest()
    return {"private": private, "branches": {"main": sha}, "commits": {sha: {}}}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, value=b"", **headers):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, content in headers.items():
            self.send_header(name.replace("_", "-"), content)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, code, message):
        self.answer(status, {"error": message}, X_Error_Code=code, X_Error_Message=message)

    def handle_one(self):
        hub, parts = self.server, [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        hub.requests.append(f"{self.command} {self.path}")
        if self.command == "PUT" and hub.fail:  # the line goes dead in the middle of a file
            self.rfile.read(int(self.headers["Content-Length"]) // 2)
            self.close_connection = True
            return self.connection.shutdown(socket.SHUT_RDWR)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        if parts[0] == "lfs":
            return self.large_file(parts[1], body)
        if token not in (None, TOKEN):
            return self.refuse(401, "", "Invalid credentials in Authorization header")
        self.may_write = token == TOKEN
        if parts[:3] == ["api", "repos", "create"]:
            return self.create(json.loads(body))
        if parts[:2] == ["api", "validate-yaml"]:
            return self.answer(200, {"errors": [], "warnings": []})
        if parts[0] == "api":
            kind, name, rest = parts[1], "/".join(parts[2:4]), parts[4:]
        else:
            kind, parts = (parts[0], parts[1:]) if parts[0] in ("datasets", "spaces") else ("models", parts)
            name, rest = "/".join(parts[:2]).removesuffix(".git"), parts[2:]
        repo = hub.repos.get((kind, name))
        if repo is None or (repo["private"] and not self.may_write):
            return self.refuse(404 if self.may_write else 401, "RepoNotFound", "Repository not found")
        if repo.get("gated") and rest and rest[0] in ("resolve", "tree"):
            return self.refuse(403, "GatedRepo", "Access to this model is restricted")
        if self.command == "POST" and rest[0] in ("commit", "branch", "preupload", "info"):
            if not self.may_write or name.split("/")[0] not in OWN:
                return self.refuse(403 if self.may_write else 401, "", "You may not write here")
        return self.in_repo(kind, name, repo, rest, body)

    do_GET = do_HEAD = do_POST = do_PUT = handle_one

    def create(self, asked):
        if not self.may_write:
            return self.refuse(401, "", "Invalid username or password.")
        owner = asked.get("organization") or OWN[0]
        key = (f"{asked.get('type', 'model')}s", f"{owner}/{asked['name']}")
        if owner not in OWN:
            return self.refuse(403, "", f"You don't have the rights to create a repository under '{owner}'")
        address = f"{self.server.url}/{key[1]}"
        if key in self.server.repos:
            return self.answer(409, {"error": "You already created this repo", "url": address})
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        self.server.repos[key] = new_repo(private)
        if key[0] == "spaces":  # the Hub wants to know how to run a Space, and writes a card into it
            if asked.get("sdk") != "docker":
                return self.refuse(400, "", "Invalid sdk")
            self.server.put(key[1], {"README.md": SPACE_CARD.format(asked["name"]).encode()}, "spaces")
        return self.answer(200, {"url": address, "name": key[1]})

    def in_repo(self, kind, name, repo, rest, body):
        what = rest[0] if rest else "revision"
        if what == "branch":
            if rest[1] in repo["branches"]:
                return self.answer(409, {"error": "Reference already exists"})
            repo["branches"][rest[1]] = repo["branches"]["main"]
            return self.answer(200, {})
        if what == "info":  # .git/info/lfs/objects/batch
            return self.large_files(json.loads(body))
        revision = rest[1] if len(rest) > 1 else "main"
        sha = repo["branches"].get(revision, revision)
        if sha not in repo["commits"]:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = repo["commits"][sha]
        if what == "preupload":
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": files})
        if what == "commit":
            return self.commit(repo, revision, [json.loads(line) for line in body.splitlines()], name)
        if what == "tree":
            under = "/".join(rest[2:])
            recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() in ("true", "1")
            return self.answer(200, self.listing(files, under, recursive))
        if what == "paths-info":
            asked = parse_qs(body.decode()).get("paths") or []
            return self.answer(200, [self.entry(path, files[path]) for path in asked if path in files])
        if what == "resolve":
            return self.resolve(files, sha, "/".join(rest[2:]))
        siblings = [{"rfilename": path} | self.entry(path, files[path]) for path in files]
        facts = {"_id": name, "id": name, "private": repo["private"], "sha": sha, "siblings": siblings, "tags": []}
        return self.answer(200, facts | {"gated": False, "disabled": False, "downloads": 0, "likes": 0})

    def entry(self, path, oid):
        content = self.server.blobs[oid]
        size = self.server.declared.get(path, len(content))
        entry = {"type": "file", "path": path, "size": size, "oid": hashlib.sha1(content).hexdigest()}
        if path.endswith(LARGE):
            entry["lfs"] = {"oid": oid, "sha256": oid, "size": size, "pointerSize": 130}
        return entry

    def listing(self, files, under, recursive):
        inside = {path: oid for path, oid in files.items() if not under or path.startswith(f"{under}/")}
        skip = len(under) + 1 if under else 0
        own = [path for path in inside if recursive or "/" not in path[skip:]]
        folders = {path[: skip + path[skip:].index("/")] for path in inside if "/" in path[skip:]}
        return [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)] + [
            self.entry(path, inside[path]) for path in own
        ]

    def resolve(self, files, sha, path):
        if path not in files:
            return self.refuse(404, "EntryNotFound", f"{path} does not exist")
        content = self.server.blobs[files[path]]
        etag = f'"{files[path] if path.endswith(LARGE) else hashlib.sha1(content).hexdigest()}"'
        if path.endswith(LARGE):
            elsewhere = self.server.url.replace("127.0.0.1", "localhost")  # as the Hub's files lie on another host
            headers = {"Location": f"{elsewhere}/lfs/{files[path]}", "X_Linked_Etag": etag}
            size = str(self.server.declared.get(path, len(content)))
            return self.answer(302, b"", X_Repo_Commit=sha, X_Linked_Size=size, ETag=etag, **headers)
        return self.answer(200, content, X_Repo_Commit=sha, ETag=etag)

    def large_file(self, oid, body):
        if self.command == "PUT":
            assert self.server.keep(body) == oid
            return self.answer(200)
        content, asked = self.server.blobs[oid], self.headers.get("Range")
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            part = content[int(first) : int(last) + 1 if last else None]
            return self.answer(206, part, Content_Range=f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}")
        return self.answer(200, content)

    def large_files(self, asked):
        objects = []
        for file in asked["objects"]:
            known = file["oid"] in self.server.blobs
            upload = {"upload": {"href": f"{self.server.url}/lfs/{file['oid']}", "header": {}}}
            objects.append(file | ({} if known else {"actions": upload}))
        return self.answer(200, {"transfer": "basic", "objects": objects})

    def commit(self, repo, branch, lines, name):
        head = lines[0]["value"].get("parentCommit")
        if self.server.moved:
            self.server.put(name, {"notes.txt": b"by somebody else"})
        if head not in (None, repo["branches"][branch]):
            return self.refuse(412, "", "A commit has happened since")
        values = {"file": [], "lfsFile": [], "deletedFile": []}
        for line in lines[1:]:
            values[line["key"]].append(line["value"])
        added = {one["path"]: self.server.keep(base64.b64decode(one["content"])) for one in values["file"]}
        added |= {one["path"]: one["oid"] for one in values["lfsFile"]}
        assert all(oid in self.server.blobs for oid in added.values())
        sha = self.server.commit(repo, branch, added, {one["path"] for one in values["deletedFile"]})
        return self.answer(200, {"commitUrl": f"{self.server.url}/{name}/commit/{sha}", "commitOid": sha})
