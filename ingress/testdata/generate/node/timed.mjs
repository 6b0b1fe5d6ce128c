// Providers that sign a time with the body.
import Stripe from 'stripe';
import bolt from '@slack/bolt';
import { Environment, Paddle } from '@paddle/paddle-node-sdk';
import { WorkOS } from '@workos-inc/node';
import Mux from '@mux/mux-node';
import { assertValidSignature, encodeSignatureHeader } from '@sanity/webhook';
import { WebflowClient } from 'webflow-api';
import * as box from 'box-node-sdk/lib/managers/webhooks';
import { AwsLambdaReceiver } from '@zoom/rivet/meetings';
import { EventSubHttpListener } from '@twurple/eventsub-http';
import { at, hmac, record, seconds } from './record.mjs';

const secret = 'penstock-test-secret ☃';
const json = { 'Content-Type': 'application/json' };

export async function timed() {
  const stripe = new Stripe('sk_test_penstock');
  const charge =
    '{\n  "id": "evt_1",\n  "object": "event",\n  "type": "charge.succeeded",\n  "data": {"object": {"id": "ch_1", "description": "Caf\u00e9"}}\n}';
  const whsec = 'whsec_penstock_test_secret'; // the whole text is the key
  const header = stripe.webhooks.generateTestHeaderString({ payload: charge, secret: whsec, timestamp: +seconds });
  for (const [note, signature] of [
    ['a charge', header],
    ['v0 beside v1, and two of v1', header.replace(',v1=', `,v0=${'1'.repeat(64)},v1=${'2'.repeat(64)},v1=`)],
  ]) {
    await record({
      provider: 'stripe',
      pkg: 'stripe',
      fn: 'webhooks.generateTestHeaderString and constructEvent',
      note,
      secret: whsec,
      body: charge,
      sig: note === 'a charge' ? 'Stripe-Signature' : undefined,
      late: 301,
      headers: { ...json, 'Stripe-Signature': signature },
      alter: [
        {
          note: 'another time',
          reason: 'wrong-signature',
          headers: { ...json, 'Stripe-Signature': signature.replace(seconds, String(+seconds + 1)) },
        },
      ],
      verify: (v) => stripe.webhooks.constructEvent(v.body, v.headers['Stripe-Signature'], v.secret).id === 'evt_1',
    });
  }

  const slack = (body) => 'v0=' + hmac('sha256', secret, `v0:${seconds}:${body}`, 'hex');
  for (const [note, body, type] of [
    [
      'an event',
      '{"type":"event_callback","event_id":"Ev1","team_id":"T1","event":{"type":"message","channel":"C1","text":"naïve"}}',
      'application/json',
    ],
    [
      'a slash command',
      'command=%2Fweather&text=94070&team_id=T1&channel_id=C1&user_id=U1',
      'application/x-www-form-urlencoded',
    ],
  ]) {
    await record({
      provider: 'slack',
      pkg: '@slack/bolt',
      fn: 'verifySlackRequest',
      note,
      secret,
      body,
      sig: 'X-Slack-Signature',
      late: 301,
      headers: { 'Content-Type': type, 'X-Slack-Request-Timestamp': seconds, 'X-Slack-Signature': slack(body) },
      verify: (v) => {
        bolt.verifySlackRequest({
          signingSecret: v.secret,
          body: v.body,
          nowMilliseconds: Date.now(),
          headers: {
            'x-slack-signature': v.headers['X-Slack-Signature'],
            'x-slack-request-timestamp': +v.headers['X-Slack-Request-Timestamp'],
          },
        });
        return true;
      },
    });
  }

  const paddle = new Paddle('key', { environment: Environment.sandbox });
  const sale =
    '{"event_id":"evt_01","event_type":"transaction.completed","notification_id":"ntf_01","data":{"id":"txn_01","note":"Ωmega"}}';
  await record({
    provider: 'paddle',
    pkg: '@paddle/paddle-node-sdk',
    fn: 'webhooks.isSignatureValid',
    note: 'a transaction',
    secret,
    body: sale,
    sig: 'Paddle-Signature',
    late: 6,
    headers: { ...json, 'Paddle-Signature': `ts=${seconds};h1=${hmac('sha256', secret, `${seconds}:${sale}`, 'hex')}` },
    verify: (v) => paddle.webhooks.isSignatureValid(v.body, v.secret, v.headers['Paddle-Signature']),
  });

  // It signs the text that JSON.stringify gives of what it is handed.
  const workos = new WorkOS('sk_test');
  const user =
    '{"id":"event_1","event":"user.created","data":{"id":"user_1","first_name":"Zoë"},"created_at":"2026-01-15T12:00:00.000Z"}';
  await record({
    provider: 'workos',
    pkg: '@workos-inc/node',
    fn: 'webhooks.computeSignature and constructEvent',
    note: 'the time is in ms',
    secret,
    body: user,
    sig: 'WorkOS-Signature',
    late: 181,
    headers: {
      ...json,
      'WorkOS-Signature': `t=${at}, v1=${await workos.webhooks.computeSignature(String(at), JSON.parse(user), secret)}`,
    },
    verify: async (v) =>
      (
        await workos.webhooks.constructEvent({
          payload: JSON.parse(v.body),
          sigHeader: v.headers['WorkOS-Signature'],
          secret: v.secret,
        })
      ).id === 'event_1',
  });

  const asset =
    '{"type":"video.asset.ready","id":"3a56ac3d-33da-4366-855b-f592d898409d","object":{"type":"asset","id":"as_1"},"data":{"meta":"Ürban"}}';
  await record({
    provider: 'mux',
    pkg: '@mux/mux-node',
    fn: 'webhooks.unwrap',
    note: 'an asset',
    secret,
    body: asset,
    sig: 'Mux-Signature',
    late: 301,
    headers: { ...json, 'Mux-Signature': `t=${seconds},v1=${hmac('sha256', secret, `${seconds}.${asset}`, 'hex')}` },
    verify: async (v) =>
      (await new Mux({ tokenId: 'x', tokenSecret: 'x' }).webhooks.unwrap(v.body, v.headers, v.secret)).object.id ===
      'as_1',
  });

  const document = '{"_id":"drafts.1","_type":"post","title":"Blåbær"}';
  await record({
    provider: 'sanity',
    pkg: '@sanity/webhook',
    fn: 'encodeSignatureHeader and assertValidSignature',
    note: 'the time is in ms; base64url without padding',
    secret,
    body: document,
    sig: 'Sanity-Webhook-Signature',
    headers: {
      ...json,
      'Sanity-Webhook-Signature': await encodeSignatureHeader(document, at, secret),
      'Sanity-Operation': 'update',
      'Sanity-Document-Id': '1',
      'Idempotency-Key': 'k1',
    },
    verify: async (v) => {
      await assertValidSignature(v.body, v.headers['Sanity-Webhook-Signature'], v.secret);
      return true;
    },
  });

  const flow = new WebflowClient({ accessToken: 'x' });
  const submission =
    '{"triggerType":"form_submission","payload":{"name":"Kontakt","siteId":"65427cf400e02b306eaa049c","id":"f1","data":{"Name":"Ærø"}}}';
  await record({
    provider: 'webflow',
    pkg: 'webflow-api',
    fn: 'webhooks.verifySignature',
    note: 'the time is in ms',
    secret,
    body: submission,
    sig: 'x-webflow-signature',
    headers: {
      ...json,
      'x-webflow-timestamp': String(at),
      'x-webflow-signature': hmac('sha256', secret, `${at}:${submission}`, 'hex'),
    },
    verify: (v) => flow.webhooks.verifySignature({ headers: v.headers, body: v.body, secret: v.secret }),
  });

  const uploaded =
    '{"type":"webhook_event","id":"0f5b9bb9-1f1b-4dd9-8c1c-2f8d9b0a0a11","trigger":"FILE.UPLOADED","webhook":{"id":"3712"},"source":{"id":"73835521473","type":"file","name":"Größe.pdf"}}';
  const when = '2026-01-15T12:00:00Z';
  for (const [note, which] of [
    ['the primary key', 'box-signature-primary'],
    ['the secondary key', 'box-signature-secondary'],
  ]) {
    await record({
      provider: 'box',
      pkg: 'box-node-sdk',
      fn: 'WebhooksManager.validateMessage',
      note,
      secret,
      body: uploaded,
      late: 601,
      early: 1201,
      headers: {
        ...json,
        'box-delivery-timestamp': when,
        'box-delivery-id': 'd1',
        'box-signature-version': '1',
        'box-signature-algorithm': 'HmacSHA256',
        'box-signature-primary': 'A'.repeat(43) + '=',
        'box-signature-secondary': 'A'.repeat(43) + '=',
        [which]: hmac('sha256', secret, uploaded + when, 'base64'),
      },
      verify: (v) => box.WebhooksManager.validateMessage(v.body, v.headers, v.secret, { secondaryKey: v.secret }),
    });
  }

  const joined =
    '{"event":"meeting.participant_joined","event_ts":1768478400000,"payload":{"account_id":"A1","object":{"id":"85746065","uuid":"4444AAAiAAAAAiAiAiiAii==","topic":"Réunion"}}}';
  await record({
    provider: 'zoom',
    pkg: '@zoom/rivet',
    fn: 'AwsLambdaReceiver',
    note: 'a participant',
    secret,
    body: joined,
    sig: 'x-zm-signature',
    headers: {
      ...json,
      'x-zm-request-timestamp': seconds,
      'x-zm-signature': 'v0=' + hmac('sha256', secret, `v0:${seconds}:${joined}`, 'hex'),
    },
    verify: (v) => zoom(v),
  });

  const notification =
    '{"subscription":{"id":"f1c2a387-161a-49f9-a165-0f21d7a4e1c4","type":"channel.follow"},"event":{"user_id":"1337","user_name":"awesome_üser","broadcaster_user_id":"12826"}}';
  const stamp = '2026-01-15T12:00:00.123456789Z';
  const twitch = 'penstock-test-secret';
  await record({
    provider: 'twitch',
    by: 'other',
    pkg: '@twurple/eventsub-http',
    fn: 'EventSubHttpListener',
    note: 'a time with nanoseconds',
    secret: twitch,
    body: notification,
    sig: 'Twitch-Eventsub-Message-Signature',
    headers: {
      ...json,
      'Twitch-Eventsub-Message-Id': 'befa7b53-d79d-478f-86b9-120f112b044e',
      'Twitch-Eventsub-Message-Type': 'notification',
      'Twitch-Eventsub-Subscription-Type': 'channel.follow',
      'Twitch-Eventsub-Message-Timestamp': stamp,
      'Twitch-Eventsub-Message-Signature':
        'sha256=' + hmac('sha256', twitch, `befa7b53-d79d-478f-86b9-120f112b044e${stamp}${notification}`, 'hex'),
    },
    verify: (v) =>
      EventSubHttpListener.prototype._verifyData.call(
        { _secret: v.secret },
        v.headers['Twitch-Eventsub-Message-Id'],
        v.headers['Twitch-Eventsub-Message-Timestamp'],
        v.body,
        v.headers['Twitch-Eventsub-Message-Signature'],
      ),
  });
}

// Zoom's own receiver, as it is used behind AWS Lambda.
async function zoom(v) {
  const receiver = new AwsLambdaReceiver({ webhooksSecretToken: v.secret });
  receiver.init({ eventEmitter: { emit: async () => {} } });
  console.debug = console.error = () => {};
  return (await receiver.start()({ body: v.body, headers: v.headers, isBase64Encoded: false }, {})).statusCode === 200;
}
