// Records requests together with the verdict of somebody else's verifier on each of them.
import { createHmac } from 'node:crypto';
import { createRequire } from 'node:module';
import { readFileSync, writeFileSync } from 'node:fs';

const RealDate = Date;
let frozen = RealDate.UTC(2026, 0, 15, 12, 0, 0);

// Verifiers ask the clock, so the clock is the vector's.
globalThis.Date = class extends RealDate {
  constructor(...args) {
    super(...(args.length ? args : [frozen]));
  }
  static now() {
    return frozen;
  }
};

export const at = frozen; // ms
export const seconds = String(frozen / 1000);

const vectors = [];

export const hmac = (digest, key, text, encoding) => createHmac(digest, key).update(text).digest(encoding);

function version(pkg) {
  let dir = createRequire(import.meta.url).resolve.paths(pkg)[0];
  return JSON.parse(readFileSync(`${dir}/${pkg}/package.json`)).version;
}

// Another character of the same kind, so that JSON, a form, hex and base64 stay what they are.
const other = (c) => (/[0-9]/.test(c) ? String((+c + 1) % 10) : c === 'b' ? 'c' : 'b');

export function change(text, from = Math.floor(text.length / 2)) {
  for (let i = from; i < text.length; i++) {
    if (/[0-9a-z]/.test(text[i]) && text[i - 1] !== '\\' && text[i - 1] !== 'u') {
      return text.slice(0, i) + other(text[i]) + text.slice(i + 1);
    }
  }
  return text.slice(0, -1) + 'b';
}

// The second half, or of a token its signature.
const half = (text) => (text.split('.').length === 3 ? text.lastIndexOf('.') + 9 : Math.floor(text.length / 2));

async function verdict(v, verify) {
  frozen = v.at;
  try {
    return (await verify(v)) === true;
  } catch {
    return false;
  } finally {
    frozen = at;
  }
}

// record takes a signed request {provider, by, pkg, fn, note, secret, url, headers, body, verify}, has verify confirm
// it, and records it; then the same with the body, the signature, the secret and the time changed, each of which
// verify must refuse. sig names the signature's header; set in a change replaces headers. late and early are seconds by which the clock is moved when
// the verifier looks at it. alter lists further changes {note, reason, …}; unsigned says that the body isn't covered.
export async function record({ verify, sig, late, early, alter = [], unsigned, public: isPublic, ...given }) {
  const { pkg, fn, ...rest } = given;
  const good = {
    by: 'vendor',
    method: 'POST',
    url: `https://hooks.example.com/hooks/${given.provider}`,
    at,
    valid: true,
    ...rest,
    origin: `npm ${pkg}@${version(pkg)}, ${fn}`,
  };
  if (!(await verdict(good, verify))) throw new Error(`${given.provider}: ${pkg} refuses the good request`);
  vectors.push(good);
  const bad = [...alter];
  if (!unsigned) bad.push({ note: 'body changed', reason: 'wrong-signature', body: change(good.body) });
  if (!isPublic) {
    const prefix = /^whsec_|^polar_whs_/.exec(good.secret)?.[0].length ?? 0;
    const secret = good.secret.slice(0, prefix) + change(good.secret.slice(prefix), 4);
    bad.push({ note: 'another secret', reason: 'wrong-signature', secret });
  }
  if (sig) {
    const { [sig]: value, ...without } = good.headers;
    bad.push({ note: 'no signature', reason: 'missing-header', headers: without });
    bad.push({
      note: 'signature changed',
      reason: 'wrong-signature',
      headers: { ...good.headers, [sig]: change(value, half(value)) },
    });
  }
  if (late) bad.push({ note: `${late} s late`, reason: 'too-old', at: good.at + late * 1000 });
  if (early) bad.push({ note: `${early} s early`, reason: 'too-new', at: good.at - early * 1000 });
  for (const changes of bad) {
    const v = { ...good, ...changes, valid: false };
    if (changes.set) v.headers = { ...good.headers, ...changes.set };
    if (await verdict(v, verify)) throw new Error(`${given.provider}: ${pkg} accepts "${changes.note}"`);
    vectors.push(v);
  }
}

export function write(path) {
  const out = vectors.map(
    ({ provider, by, origin, note, secret, settings, method, url, headers, body, at, valid, reason }) => ({
      provider,
      by,
      origin,
      note,
      secret,
      settings,
      method,
      url,
      headers,
      body: Buffer.from(body).toString('base64'),
      at: new RealDate(at).toISOString(),
      valid,
      reason,
    }),
  );
  writeFileSync(path, `[\n${out.map((v) => JSON.stringify(v)).join(',\n')}\n]\n`);
  const providers = new Set(vectors.map((v) => v.provider));
  console.log(`${vectors.length} vectors of ${providers.size} providers`);
}
