// Providers whose signature covers the URL that they called, or other parts of the request than the body.
import { createHash } from 'node:crypto';
import twilio from 'twilio';
import { WebhooksHelper } from 'square';
import { Signature } from '@hubspot/api-client';
import { signRequest, verifyRequest } from '@contentful/node-apps-toolkit';
import * as atlassian from 'atlassian-jwt';
import { WebhookSignatureValidator } from 'mercadopago';
import { verifySignature as verifyVonage } from '@vonage/jwt';
import * as messagebird from 'messagebird/lib/webhook-signature-jwt.js';
import jsonwebtoken from 'jsonwebtoken';
import { at, change, hmac, record, seconds } from './record.mjs';

const secret = 'penstock-test-secret';
const json = { 'Content-Type': 'application/json' };
const form = { 'Content-Type': 'application/x-www-form-urlencoded' };
const sha256 = (text) => createHash('sha256').update(text).digest('hex');

export async function url() {
  const fields = (body) => {
    const all = {};
    for (const [k, v] of new URLSearchParams(body)) all[k] = k in all ? [].concat(all[k], v) : v;
    return all;
  };
  const hook = 'https://hooks.example.com/hooks/twilio?foo=1&bar=2';
  const sms =
    'MessageSid=SM1&To=%2B18005551212&From=%2B14158675310&Body=caf%C3%A9+%26+more&Empty=&MessageStatus=received';
  const signed = (signature) => ({ ...form, 'I-Twilio-Idempotency-Token': 'tok-1', 'X-Twilio-Signature': signature });
  const validate = (v) => twilio.validateRequest(v.secret, v.headers['X-Twilio-Signature'], v.url, fields(v.body));
  for (const [note, signedURL] of [
    ['a message', hook],
    ['signed with the default port', hook.replace('.com/', '.com:443/')],
  ]) {
    await record({
      provider: 'twilio',
      pkg: 'twilio',
      fn: 'getExpectedTwilioSignature and validateRequest',
      note,
      secret,
      url: hook,
      body: sms,
      sig: note === 'a message' ? 'X-Twilio-Signature' : undefined,
      headers: signed(twilio.getExpectedTwilioSignature(secret, signedURL, fields(sms))),
      alter: [{ note: 'another query', reason: 'wrong-signature', url: hook.replace('bar=2', 'bar=3') }],
      verify: validate,
    });
  }
  const stats =
    '{"specversion":"1.0","type":"com.twilio.messaging.message.delivered","id":"EZ1","data":{"messageSid":"SM1"}}';
  const bound = `https://hooks.example.com/hooks/twilio?bodySHA256=${twilio.getExpectedBodyHash(stats)}`;
  await record({
    provider: 'twilio',
    pkg: 'twilio',
    fn: 'getExpectedBodyHash and validateRequestWithBody',
    note: 'JSON, bound by the query',
    secret,
    url: bound,
    body: stats,
    headers: { ...json, 'X-Twilio-Signature': twilio.getExpectedTwilioSignature(secret, bound, {}) },
    verify: (v) => twilio.validateRequestWithBody(v.secret, v.headers['X-Twilio-Signature'], v.url, v.body),
  });

  const squared =
    '{"merchant_id":"MLEFBHHSJGVHD","type":"customer.created","event_id":"8e7c5f6c-4a8b-4d3c-9d61-6f3a4a3a1a11","data":{"type":"customer","id":"Q6VKKKGW8GWQNEYMDRMV01QMK8"}}';
  await record({
    provider: 'square',
    pkg: 'square',
    fn: 'WebhooksHelper.verifySignature',
    note: 'a customer',
    secret,
    body: squared,
    sig: 'x-square-hmacsha256-signature',
    headers: {
      ...json,
      'x-square-hmacsha256-signature': hmac(
        'sha256',
        secret,
        `https://hooks.example.com/hooks/square${squared}`,
        'base64',
      ),
    },
    alter: [{ note: 'another URL', reason: 'wrong-signature', url: 'https://hooks.example.com/hooks/squares' }],
    verify: (v) =>
      WebhooksHelper.verifySignature({
        requestBody: v.body,
        signatureHeader: v.headers['x-square-hmacsha256-signature'] ?? '',
        signatureKey: v.secret,
        notificationUrl: v.url,
      }),
  });

  const contacts =
    '[{"eventId":100,"subscriptionId":1,"portalId":33,"occurredAt":1768478400000,"subscriptionType":"contact.creation","attemptNumber":0,"objectId":123}]';
  const hub = (u, body) =>
    Signature.getSignature('POST', 'v3', { clientSecret: secret, requestBody: body, url: u, timestamp: at });
  const hubspot = 'https://hooks.example.com/hooks/hubspot?a=1';
  await record({
    provider: 'hubspot',
    pkg: '@hubspot/api-client',
    fn: 'Signature.getSignature and isValid, v3',
    note: 'the time is in ms',
    secret,
    url: hubspot,
    body: contacts,
    sig: 'X-HubSpot-Signature-v3',
    late: 301,
    headers: { ...json, 'X-HubSpot-Request-Timestamp': String(at), 'X-HubSpot-Signature-v3': hub(hubspot, contacts) },
    alter: [{ note: 'another query', reason: 'wrong-signature', url: `${hubspot}1` }],
    verify: (v) =>
      Signature.isValid({
        clientSecret: v.secret,
        requestBody: v.body,
        url: v.url,
        timestamp: +v.headers['X-HubSpot-Request-Timestamp'],
        signature: v.headers['X-HubSpot-Signature-v3'],
        signatureVersion: 'v3',
        method: v.method,
      }),
  });

  const key = 'penstock-test-secret'.repeat(4).slice(0, 64); // it insists on 64 characters
  const entry = '{"sys":{"type":"Entry","id":"5KsDBWseXY6QegucYAoacS","revision":3},"fields":{"title":{"de":"Grüße"}}}';
  const topic = {
    'Content-Type': 'application/vnd.contentful.management.v1+json',
    'X-Contentful-Topic': 'ContentManagement.Entry.publish',
  };
  await record({
    provider: 'contentful',
    pkg: '@contentful/node-apps-toolkit',
    fn: 'signRequest and verifyRequest',
    note: 'the topic is among the signed headers',
    secret: key,
    body: entry,
    sig: 'x-contentful-signature',
    late: 31,
    headers: {
      ...topic,
      ...signRequest(key, { method: 'POST', path: '/hooks/contentful', headers: topic, body: entry }, at),
    },
    alter: [
      { note: 'another path', reason: 'wrong-signature', url: 'https://hooks.example.com/hooks/contentfuls' },
      {
        note: 'a signed header changed',
        reason: 'wrong-signature',
        set: { 'X-Contentful-Topic': 'ContentManagement.Entry.unpublish' },
      },
    ],
    verify: (v) =>
      verifyRequest(v.secret, { method: v.method, path: new URL(v.url).pathname, headers: v.headers, body: v.body }),
  });

  const connect = 'https://hooks.example.com/hooks/atlassian-connect?user_id=admin&b=2&b=1&sp=a%20b*';
  const request = (u) => atlassian.fromMethodAndUrl('POST', u);
  const jwt = (claims) =>
    'JWT ' +
    atlassian.encodeSymmetric(
      {
        iss: 'client-1',
        iat: +seconds,
        exp: +seconds + 180,
        qsh: atlassian.createQueryStringHash(request(connect)),
        ...claims,
      },
      secret,
    );
  const created =
    '{"timestamp":1768478400000,"webhookEvent":"jira:issue_created","issue":{"id":"10002","key":"OCTO-12"}}';
  await record({
    provider: 'atlassian-connect',
    pkg: 'atlassian-jwt',
    fn: 'encodeSymmetric, createQueryStringHash and decodeSymmetric',
    note: 'a repeated parameter; the body is not covered',
    secret,
    url: connect,
    body: created,
    unsigned: true,
    sig: 'Authorization',
    headers: { ...json, Authorization: jwt({}) },
    alter: [
      { note: 'another query', reason: 'wrong-signature', url: connect.replace('admin', 'admim') },
      { note: 'qsh for any request', reason: 'wrong-signature', set: { Authorization: jwt({ qsh: 'context-qsh' }) } },
    ],
    verify: (v) => {
      const claims = atlassian.decodeSymmetric(v.headers.Authorization.slice(4), v.secret, 'HS256');
      return claims.qsh === atlassian.createQueryStringHash(request(v.url)) && claims.exp * 1000 > Date.now();
    },
  });

  const payment = 'https://hooks.example.com/hooks/mercadopago?data.id=ORD01ABC&type=order';
  const order = '{"id":"12345","type":"order","action":"order.processed","api_version":"v1","data":{"id":"ORD01ABC"}}';
  await record({
    provider: 'mercadopago',
    pkg: 'mercadopago',
    fn: 'WebhookSignatureValidator.validate',
    note: 'the id is lower-cased; the body is not covered',
    secret,
    url: payment,
    body: order,
    unsigned: true,
    sig: 'x-signature',
    headers: {
      ...json,
      'x-request-id': 'bb56a2f1',
      'x-signature': `ts=${seconds},v1=${hmac('sha256', secret, `id:ord01abc;request-id:bb56a2f1;ts:${seconds};`, 'hex')}`,
    },
    alter: [
      { note: 'another id in the query', reason: 'wrong-signature', url: payment.replace('ABC', 'ABD') },
      { note: 'another request id', reason: 'wrong-signature', set: { 'x-request-id': 'bb56a2f2' } },
    ],
    verify: (v) => {
      WebhookSignatureValidator.validate({
        // The caller lower-cases it, as the provider's page says.
        xSignature: v.headers['x-signature'],
        xRequestId: v.headers['x-request-id'],
        dataId: new URL(v.url).searchParams.get('data.id').toLowerCase(),
        secret: v.secret,
      });
      return true;
    },
  });

  const inbound =
    '{"message_uuid":"aaaaaaaa-bbbb-4ccc-8ddd-0123456789ab","to":"447700900000","from":"447700900001","channel":"sms","text":"Grüße"}';
  const bearer = (claims) =>
    'Bearer ' +
    jsonwebtoken.sign(
      {
        iat: +seconds,
        jti: 'c5ba8f24-1a14-4c10-bfdf-3fbe8ce511b5',
        iss: 'Vonage',
        payload_hash: sha256(inbound),
        api_key: 'a1b2c3d',
        ...claims,
      },
      secret,
    );
  await record({
    provider: 'vonage',
    pkg: '@vonage/jwt',
    fn: 'verifySignature, and payload_hash by hand',
    note: 'a message',
    secret,
    body: inbound,
    sig: 'Authorization',
    headers: { ...json, Authorization: bearer({}) },
    alter: [{ note: 'no algorithm', reason: 'malformed', set: { Authorization: unsigned(bearer({})) } }],
    verify: (v) =>
      verifyVonage(v.headers.Authorization.slice(7), v.secret) &&
      jsonwebtoken.decode(v.headers.Authorization.slice(7)).payload_hash === sha256(v.body),
  });

  const bird = 'https://hooks.example.com/hooks/messagebird?x=1';
  const message = '{"id":"e1","type":"message.created","message":{"id":"m1"}}';
  const token = (claims) =>
    jsonwebtoken.sign(
      {
        iss: 'MessageBird',
        nbf: +seconds - 1,
        exp: +seconds + 60,
        jti: 'e92ab9d6-4a3c-4a41-a1a5-a19a85ef1b45',
        url_hash: sha256(bird),
        payload_hash: sha256(message),
        ...claims,
      },
      secret,
      { noTimestamp: true },
    );
  await record({
    provider: 'messagebird',
    pkg: 'messagebird',
    fn: 'webhook-signature-jwt verify',
    note: 'hashes of URL and body',
    secret,
    url: bird,
    body: message,
    sig: 'MessageBird-Signature-JWT',
    late: 121,
    headers: { ...json, 'MessageBird-Signature-JWT': token({}) },
    alter: [
      { note: 'another query', reason: 'wrong-signature', url: bird.replace('1', '2') },
      { note: 'no algorithm', reason: 'malformed', set: { 'MessageBird-Signature-JWT': unsigned(token({})) } },
      {
        note: 'of another issuer',
        reason: 'wrong-signature',
        set: { 'MessageBird-Signature-JWT': token({ iss: 'Bird' }) },
      },
    ],
    verify: async (v) => {
      const k = (await import('node:crypto')).createSecretKey(Buffer.from(v.secret));
      await messagebird.verify(v.url, Buffer.from(v.body), v.headers['MessageBird-Signature-JWT'], k);
      return true;
    },
  });

  const deploy = '{"id":"5f1","site_id":"s9","state":"ready","name":"octo","branch":"main"}';
  const netlify = (claims, options) =>
    jsonwebtoken.sign({ iss: 'netlify', sha256: sha256(deploy), ...claims }, secret, { noTimestamp: true, ...options });
  await record({
    provider: 'netlify',
    by: 'other',
    pkg: 'jsonwebtoken',
    fn: 'sign and verify, and the sha256 claim by hand',
    note: 'a deploy',
    secret,
    body: deploy,
    sig: 'X-Webhook-Signature',
    headers: { ...json, 'X-Netlify-Event': 'deploy_created', 'X-Webhook-Signature': netlify({}) },
    alter: [
      {
        note: 'another algorithm',
        reason: 'malformed',
        set: { 'X-Webhook-Signature': netlify({}, { algorithm: 'HS512' }) },
      },
    ],
    verify: (v) =>
      jsonwebtoken.verify(v.headers['X-Webhook-Signature'], v.secret, { algorithms: ['HS256'], issuer: 'netlify' })
        .sha256 === sha256(v.body),
  });
}

// The same claims with alg "none" and no signature.
function unsigned(token) {
  const claims = token.split('.')[1];
  const scheme = token.startsWith('Bearer ') ? 'Bearer ' : '';
  return `${scheme}${Buffer.from('{"alg":"none","typ":"JWT"}').toString('base64url')}.${claims}.`;
}
