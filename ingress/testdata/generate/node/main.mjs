// node main.mjs OUT.json CERTIFICATES
import { standard } from './standard.mjs';
import { body } from './body.mjs';
import { timed } from './timed.mjs';
import { url } from './url.mjs';
import { keys } from './keys.mjs';
import { others } from './others.mjs';
import { write } from './record.mjs';

for (const part of [standard, body, timed, url, keys, others]) await part(process.argv[3]);
write(process.argv[2]);
