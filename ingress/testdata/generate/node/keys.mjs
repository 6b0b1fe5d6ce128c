// Providers that sign with a private key. The keys are made here, and thrown away.
import { createHash, createPrivateKey, createPublicKey, createSign, generateKeyPairSync, sign } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { EventEmitter } from 'node:events';
import https from 'node:https';
import { EventWebhook } from '@sendgrid/eventwebhook';
import { verifyKey } from 'discord-interactions';
import Telnyx from 'telnyx';
import MessageValidator from 'sns-validator';
import jsonwebtoken from 'jsonwebtoken';
import { decodeWebhook } from '@kinde/webhooks';
import { at, change, record, seconds } from './record.mjs';

const json = { 'Content-Type': 'application/json' };
const requireHere = createRequire(import.meta.url);
const raw = (key) => key.export({ type: 'spki', format: 'der' }).subarray(-32); // of an Ed25519 key

export async function keys(certificates) {
  const ed = generateKeyPairSync('ed25519');
  const other = generateKeyPairSync('ed25519');
  const ping =
    '{"version":1,"application_id":"1234560123453231555","type":1,"event":{"type":"APPLICATION_AUTHORIZED","timestamp":"2026-01-15T12:00:00.1","data":{"user":{"id":"9","username":"zoë"}}}}';
  const discord = (key) => ({
    ...json,
    'X-Signature-Timestamp': seconds,
    'X-Signature-Ed25519': sign(null, Buffer.from(seconds + ping), key).toString('hex'),
  });
  await record({
    provider: 'discord',
    pkg: 'discord-interactions',
    fn: 'verifyKey',
    note: 'an event',
    public: true,
    secret: raw(ed.publicKey).toString('hex'),
    body: ping,
    sig: 'X-Signature-Ed25519',
    headers: discord(ed.privateKey),
    alter: [{ note: 'another key', reason: 'wrong-signature', headers: discord(other.privateKey) }],
    verify: (v) => verifyKey(v.body, v.headers['X-Signature-Ed25519'], v.headers['X-Signature-Timestamp'], v.secret),
  });

  const call =
    '{"data":{"event_type":"call.initiated","id":"0ccc7b54-4df3-4bca-a65a-3da1ecc777f0","occurred_at":"2026-01-15T12:00:00Z","payload":{"call_control_id":"v3:1","from":"+1ü"}}}';
  const telnyx = (key) => ({
    ...json,
    'telnyx-timestamp': seconds,
    'telnyx-signature-ed25519': sign(null, Buffer.from(`${seconds}|${call}`), key).toString('base64'),
  });
  await record({
    provider: 'telnyx',
    pkg: 'telnyx',
    fn: 'webhooks.unwrap',
    note: 'a call',
    public: true,
    secret: raw(ed.publicKey).toString('base64'),
    body: call,
    sig: 'telnyx-signature-ed25519',
    late: 301,
    early: 301,
    headers: telnyx(ed.privateKey),
    alter: [{ note: 'another key', reason: 'wrong-signature', headers: telnyx(other.privateKey) }],
    verify: async (v) =>
      (await new Telnyx({ apiKey: 'x' }).webhooks.unwrap(v.body, { headers: v.headers, key: v.secret })).data.id !==
      undefined,
  });

  const ec = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const mails =
    '[{"email":"hello@example.com","event":"dropped","reason":"Bounced Address","sg_event_id":"ZHJvcC0xMDk5","sg_message_id":"LRzXl_NHStOGhQ4kofSm_A.filter","timestamp":1768478400}]\r\n';
  const sendgrid = (key) => ({
    ...json,
    'X-Twilio-Email-Event-Webhook-Timestamp': seconds,
    'X-Twilio-Email-Event-Webhook-Signature': sign('sha256', Buffer.from(seconds + mails), key).toString('base64'),
  });
  const webhook = new EventWebhook();
  await record({
    provider: 'sendgrid',
    pkg: '@sendgrid/eventwebhook',
    fn: 'EventWebhook.verifySignature',
    note: 'the body ends in a line break',
    public: true,
    secret: ec.publicKey.export({ type: 'spki', format: 'der' }).toString('base64'),
    body: mails,
    sig: 'X-Twilio-Email-Event-Webhook-Signature',
    headers: sendgrid(ec.privateKey),
    alter: [
      {
        note: 'another key',
        reason: 'wrong-signature',
        headers: sendgrid(generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey),
      },
    ],
    verify: (v) =>
      webhook.verifySignature(
        webhook.convertPublicKeyToECDSA(v.secret),
        Buffer.from(v.body),
        v.headers['X-Twilio-Email-Event-Webhook-Signature'],
        v.headers['X-Twilio-Email-Event-Webhook-Timestamp'],
      ),
  });

  const deletion = JSON.stringify({
    metadata: { topic: 'MARKETPLACE_ACCOUNT_DELETION', schemaVersion: '1.0', deprecated: false },
    notification: {
      notificationId: '49feeaeb-4982-42d9-a377-9645b8479411',
      eventDate: '2026-01-15T12:00:00.000Z',
      data: { username: 'test_user', userId: 'ma8vp1jySJC' },
    },
  });
  const pem = ec.publicKey.export({ type: 'spki', format: 'pem' });
  const ebayKey = JSON.stringify({ key: pem.replaceAll('\n', ''), algorithm: 'ECDSA', digest: 'SHA1' });
  const kid = '9936261a-7d7b-4621-a0f1-964d8f4b8ba0';
  const ebay = (key) => ({
    ...json,
    'X-EBAY-SIGNATURE': Buffer.from(
      JSON.stringify({
        alg: 'ecdsa',
        kid,
        signature: createSign('sha1').update(deletion).sign(key, 'base64'),
        digest: 'SHA1',
      }),
    ).toString('base64'),
  });
  requireHere('event-notification-nodejs-sdk/lib/client').getPublicKey = async () => JSON.parse(ebayKey);
  const { validateSignature } = requireHere('event-notification-nodejs-sdk/lib/validator');
  await record({
    provider: 'ebay',
    pkg: 'event-notification-nodejs-sdk',
    fn: 'validateSignature',
    note: 'the key is fetched by its id',
    public: true,
    secret: 'client:secret',
    body: deletion,
    settings: {
      fetched: {
        'https://api.ebay.com/identity/v1/oauth2/token':
          '{"access_token":"token","expires_in":7200,"token_type":"Application Access Token"}',
        [`https://api.ebay.com/commerce/notification/v1/public_key/${kid}`]: ebayKey,
      },
    },
    headers: ebay(ec.privateKey),
    alter: [
      {
        note: 'another key',
        reason: 'wrong-signature',
        headers: ebay(generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey),
      },
    ],
    verify: (v) => validateSignature(JSON.parse(v.body), v.headers['X-EBAY-SIGNATURE'], {}),
  });

  const update =
    '{\n  "webhook_type": "TRANSACTIONS",\n  "webhook_code": "SYNC_UPDATES_AVAILABLE",\n  "item_id": "wz666MBjYWTp2PDzzggYhM6oWWmBb"\n}';
  const plaid = (key, claims, body = update) => ({
    ...json,
    'Plaid-Verification': jsonwebtoken.sign(
      { iat: +seconds, request_body_sha256: createHash('sha256').update(body).digest('hex') },
      key,
      { algorithm: 'ES256', keyid: kid, ...claims },
    ),
  });
  const plaidKey = JSON.stringify({
    key: {
      alg: 'ES256',
      created_at: 1560466143,
      expired_at: null,
      kid,
      use: 'sig',
      ...ec.publicKey.export({ format: 'jwk' }),
    },
    request_id: 'RZ6Omi1bzzwDaLo',
  });
  await record({
    provider: 'plaid',
    by: 'other',
    pkg: 'jsonwebtoken',
    fn: "sign and verify, and the body's hash by hand",
    note: 'the key is fetched by its id',
    public: true,
    secret: 'client:secret',
    body: update,
    settings: { fetched: { 'https://production.plaid.com/webhook_verification_key/get': plaidKey } },
    headers: plaid(ec.privateKey),
    sig: 'Plaid-Verification',
    late: 301,
    alter: [
      {
        note: 'another key',
        reason: 'wrong-signature',
        headers: plaid(generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey),
      },
      { note: 'signed with a shared secret', reason: 'malformed', headers: plaid(pem, { algorithm: 'HS256' }) },
    ],
    verify: (v) =>
      jsonwebtoken.verify(v.headers['Plaid-Verification'], pem, { algorithms: ['ES256'], maxAge: '5 min' })
        .request_body_sha256 === createHash('sha256').update(v.body).digest('hex'),
  });

  const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const jwks = JSON.stringify({
    keys: [{ ...rsa.publicKey.export({ format: 'jwk' }), kid: 'k1', alg: 'RS256', use: 'sig' }],
  });
  const kinde = jsonwebtoken.sign(
    {
      type: 'user.created',
      event_id: 'event_1',
      source: 'admin',
      timestamp: '2026-01-15T12:00:00Z',
      data: { user: { id: 'kp_1', first_name: 'Zoë' } },
    },
    rsa.privateKey,
    { algorithm: 'RS256', keyid: 'k1' },
  );
  globalThis.fetch = async () => new Response(jwks, { status: 200, headers: json });
  const domain = 'https://octo.kinde.com';
  await record({
    provider: 'kinde',
    pkg: '@kinde/webhooks',
    fn: 'decodeWebhook',
    note: 'the body is the token',
    public: true,
    secret: domain,
    body: kinde,
    unsigned: true,
    settings: { fetched: { [`${domain}/.well-known/jwks.json`]: jwks } },
    headers: { 'Content-Type': 'application/jwt' },
    alter: [
      { note: 'signature changed', reason: 'wrong-signature', body: change(kinde, kinde.lastIndexOf('.') + 9) },
      { note: 'signed with the public key as a secret', reason: 'malformed', body: confused(kinde, rsa.publicKey) },
    ],
    verify: async (v) => (await decodeWebhook(v.body, v.secret)) !== null,
  });

  const certificate = readFileSync(`${certificates}/sns.pem`, 'utf8');
  const snsKey = createPrivateKey(readFileSync(`${certificates}/sns.key`));
  if (!createPublicKey(certificate)) throw new Error('no certificate');
  https.get = (_, answer) => {
    // of the certificate
    const res = Object.assign(new EventEmitter(), { statusCode: 200 });
    setImmediate(() => {
      answer(res);
      res.emit('data', certificate);
      res.emit('end');
    });
    return new EventEmitter();
  };
  const url = 'https://sns.us-east-1.amazonaws.com/SimpleNotificationService-9c6465fa7f48f5cacd23014631ec1136.pem';
  const topic = 'arn:aws:sns:us-east-1:123456789012:MyTopic';
  const message = (fields, digest = 'sha256') => {
    const all = {
      MessageId: '22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324',
      TopicArn: topic,
      Timestamp: '2026-01-15T12:00:00.000Z',
      SignatureVersion: digest === 'sha1' ? '1' : '2',
      SigningCertURL: url,
      ...fields,
    };
    const text = ['Message', 'MessageId', 'Subject', 'SubscribeURL', 'Timestamp', 'Token', 'TopicArn', 'Type']
      .filter((k) => k in all)
      .map((k) => `${k}\n${all[k]}\n`)
      .join('');
    return JSON.stringify({ ...all, Signature: createSign(digest).update(text).sign(snsKey, 'base64') }, null, 2);
  };
  for (const [note, body, alter] of [
    [
      'version 1, SHA-1, with a subject',
      message({ Type: 'Notification', Subject: 'My First Message', Message: 'Hello, wörld!\n"quoted"' }, 'sha1'),
      'wörld',
    ],
    ['version 2, no subject', message({ Type: 'Notification', Message: 'Hello, wörld!' }), 'wörld'],
    [
      'a confirmation',
      message({
        Type: 'SubscriptionConfirmation',
        Message: 'You have chosen to subscribe',
        Token: '2336412f37f',
        SubscribeURL: 'https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription&Token=2336412f37f',
      }),
      '2336412f37f',
    ],
  ]) {
    await record({
      provider: 'sns',
      pkg: 'sns-validator',
      fn: 'MessageValidator.validate',
      note,
      public: true,
      secret: topic,
      body,
      unsigned: true,
      settings: { fetched: { [url]: certificate }, root: readFileSync(`${certificates}/root.pem`, 'utf8') },
      headers: {
        'Content-Type': 'text/plain; charset=UTF-8',
        'x-amz-sns-message-type': JSON.parse(body).Type,
        'x-amz-sns-message-id': '22b80b92',
        'x-amz-sns-topic-arn': topic,
      },
      alter: [
        { note: 'message changed', reason: 'wrong-signature', body: body.replaceAll(alter, 'wurld') },
        {
          note: 'certificate of somebody else',
          reason: 'untrusted-key',
          body: body.replace('sns.us-east-1.amazonaws.com/Simple', 'sns.us-east-1.amazonaws.com.example.com/Simple'),
        },
      ],
      verify: (v) => new Promise((resolve) => new MessageValidator().validate(v.body, (err) => resolve(!err))),
    });
  }
  if (at !== Date.parse('2026-01-15T12:00:00Z')) throw new Error('the bodies name another time');
}

// The trick of signing with HS256 and the public key.
function confused(token, publicKey) {
  const pem = publicKey.export({ type: 'spki', format: 'pem' });
  return jsonwebtoken.sign(jsonwebtoken.decode(token), Buffer.from(pem), { algorithm: 'HS256', keyid: 'k1' });
}
