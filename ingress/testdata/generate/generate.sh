#!/bin/sh
# Writes ../vectors anew, with Node 20, Python 3.11 and Go: generate.sh [WORKDIR]. Packages are installed into WORKDIR, of
# which nothing belongs into the repository. Keys and some signatures are random: the vectors are others each time.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=$here/../vectors
work=${1:-$(mktemp -d)}
mkdir -p "$work/certificates"
cp -R "$here/node" "$here/python" "$here/go" "$work"

cd "$work/python"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check -r requirements.txt
venv/bin/python certificates.py ../certificates
venv/bin/python -W ignore main.py "$out/python.json" ../certificates

cd "$work/node"
npm install --no-audit --no-fund --ignore-scripts --silent
# Of n8n's nodes only the verifiers are used, which need none of its many dependencies.
n8n=$(npm pack --silent n8n-nodes-base@2.41.2)
mkdir -p node_modules/n8n-nodes-base
tar xzf "$n8n" -C node_modules/n8n-nodes-base --strip-components 1
node main.mjs "$out/node.json" ../certificates
../python/venv/bin/python ../python/pages.py "$out/pages.json" node_modules/messagebird/lib/testdata/webhook-signature-jwt-reference.json

cd "$work/go"
go run . "$out/go.json"
