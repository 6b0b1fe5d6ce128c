// Standard Webhooks, Svix, and those who sign like them.
import { Webhook as Standard } from 'standardwebhooks';
import { Webhook as Svix } from 'svix';
import { Resend } from 'resend';
import { verifyWebhook } from '@clerk/backend/webhooks';
import OpenAI from 'openai';
import { validateEvent, WebhookVerificationError } from '@polar-sh/sdk/webhooks';
import { validateWebhook } from 'replicate';
import Finch from '@tryfinch/finch-api';
import { at, hmac, record, seconds } from './record.mjs';

const secret = 'whsec_' + Buffer.from('penstock test secret, 32 bytes!!').toString('base64');
const key = Buffer.from(secret.slice(6), 'base64');
const json = { 'Content-Type': 'application/json' };

function headers(prefix, id, body, k = key) {
  return {
    ...json,
    [`${prefix}-id`]: id,
    [`${prefix}-timestamp`]: seconds,
    [`${prefix}-signature`]: 'v1,' + hmac('sha256', k, `${id}.${seconds}.${body}`, 'base64'),
  };
}

// Those whose own instructions are: use the library of Standard Webhooks.
const bodies = {
  standard: [
    'Standard Webhooks',
    { type: 'contact.created', timestamp: '2026-01-15T12:00:00Z', data: { id: 'c_1', name: 'Zoë ☕' } },
  ],
  supabase: [
    'an auth hook',
    { user: { id: '8484b834-f29e-4af2-bf42-80644d154f76', email: 'zoë@example.com' }, email_data: { token: '305805' } },
  ],
  render: [
    'a service hook',
    {
      type: 'deploy_ended',
      timestamp: '2026-01-15T12:00:00Z',
      data: { id: 'evj-1', serviceId: 'srv-9', status: 'succeeded' },
    },
  ],
  brex: ['a transfer', { event_type: 'TRANSFER_PROCESSED', transfer_id: 'dptx_1', company_id: 'cuacc_9' }],
  gemini: [
    'a static hook',
    { type: 'batch.succeeded', version: 'v1', timestamp: '2026-01-15T12:00:00Z', data: { id: 'batches/1' } },
  ],
  incidentio: [
    'an incident',
    { event_type: 'public_incident.incident_created_v2', 'public_incident.incident_created_v2': { id: 'inc_1' } },
  ],
  etsy: [
    'an order',
    { event_type: 'order.paid', resource_url: 'https://api.etsy.com/v3/shops/9/receipts/1', shop_id: 9 },
  ],
  loops: [
    'a contact',
    {
      eventName: 'contact.created',
      eventTime: 1768478400,
      webhookSchemaVersion: '1.0.0',
      contactIdentity: { id: 'ct_1' },
    },
  ],
  increase: [
    'an event',
    { id: 'event_1', type: 'event', category: 'account.created', associated_object_id: 'account_9' },
  ],
};

export async function standard() {
  for (const [provider, [note, payload]] of Object.entries(bodies)) {
    const body = JSON.stringify(payload);
    const id = `msg_${provider}`;
    await record({
      provider,
      pkg: 'standardwebhooks',
      fn: 'Webhook.sign and verify',
      note,
      secret,
      body,
      sig: 'webhook-signature',
      late: 301,
      early: 301,
      by: provider === 'standard' ? 'vendor' : 'other',
      headers: {
        ...json,
        'webhook-id': id,
        'webhook-timestamp': seconds,
        'webhook-signature': 'v1,' + 'A'.repeat(43) + '= ' + new Standard(secret).sign(id, new Date(at), body),
      },
      alter: [
        {
          note: 'another id',
          reason: 'wrong-signature',
          headers: { ...headers('webhook', id, body), 'webhook-id': 'msg_other' },
        },
      ],
      verify: (v) => new Standard(v.secret).verify(v.body, v.headers) !== undefined,
    });
  }
  const svix = { type: 'invoice.paid', data: { id: 'inv_1', customer: 'Åse' } };
  for (const [provider, payload] of Object.entries({
    svix,
    stytch: { action: 'CREATE', event_id: 'event-1', object_type: 'user', source: 'DIRECT', id: 'user-9' },
    vanta: { type: 'vendor.created', data: { id: 'v_1' } },
  })) {
    const body = JSON.stringify(payload);
    await record({
      provider,
      pkg: 'svix',
      fn: 'Webhook.sign and verify',
      note: 'an event',
      secret,
      body,
      sig: 'svix-signature',
      late: 301,
      early: 301,
      by: provider === 'svix' ? 'vendor' : 'other',
      headers: {
        ...headers('svix', 'msg_1', body),
        'svix-signature': new Svix(secret).sign('msg_1', new Date(at), body),
      },
      verify: (v) => new Svix(v.secret).verify(v.body, v.headers) !== undefined,
    });
  }
  const resend = JSON.stringify({
    type: 'email.delivered',
    created_at: '2026-01-15T12:00:00.000Z',
    data: { email_id: 'em_1', subject: 'Grüße' },
  });
  await record({
    provider: 'resend',
    pkg: 'resend',
    fn: 'webhooks.verify',
    note: 'a delivered mail',
    secret,
    body: resend,
    sig: 'svix-signature',
    late: 301,
    early: 301,
    headers: headers('svix', 'msg_1', resend),
    verify: (v) =>
      new Resend('re_test').webhooks.verify({
        payload: v.body,
        webhookSecret: v.secret,
        headers: {
          id: v.headers['svix-id'],
          timestamp: v.headers['svix-timestamp'],
          signature: v.headers['svix-signature'],
        },
      }) !== undefined,
  });
  const clerk = JSON.stringify({ type: 'user.created', object: 'event', data: { id: 'user_1', first_name: 'Zoë' } });
  await record({
    provider: 'clerk',
    pkg: '@clerk/backend',
    fn: 'verifyWebhook',
    note: 'a user',
    secret,
    body: clerk,
    sig: 'svix-signature',
    late: 301,
    early: 301,
    headers: headers('svix', 'msg_1', clerk),
    verify: async (v) => (await verifyWebhook(new Request(v.url, v), { signingSecret: v.secret })) !== undefined,
  });
  const openai = JSON.stringify({
    id: 'evt_1',
    object: 'event',
    created_at: 1768478400,
    type: 'response.completed',
    data: { id: 'resp_1' },
  });
  await record({
    provider: 'openai',
    pkg: 'openai',
    fn: 'webhooks.unwrap',
    note: 'a response',
    secret,
    body: openai,
    sig: 'webhook-signature',
    late: 301,
    early: 301,
    headers: headers('webhook', 'wh_1', openai),
    verify: async (v) =>
      (await new OpenAI({ apiKey: 'sk-test' }).webhooks.unwrap(v.body, v.headers, v.secret)).id === 'evt_1',
  });
  const replicate = JSON.stringify({
    id: 'ufawqhfynnddngldkgtslldrkq',
    status: 'succeeded',
    version: 'v1',
    output: ['Ü'],
  });
  await record({
    provider: 'replicate',
    pkg: 'replicate',
    fn: 'validateWebhook',
    note: 'a prediction',
    secret,
    body: replicate,
    sig: 'webhook-signature',
    headers: headers('webhook', 'msg_1', replicate),
    verify: (v) =>
      validateWebhook({
        id: v.headers['webhook-id'],
        timestamp: v.headers['webhook-timestamp'],
        signature: v.headers['webhook-signature'],
        body: v.body,
        secret: v.secret,
      }),
  });
  const raw = 'polar_whs_penstock-test'; // its bytes are the key
  const polar = JSON.stringify({
    type: 'customer.unheard_of',
    timestamp: '2026-01-15T12:00:00Z',
    data: { id: 'cus_1' },
  });
  await record({
    provider: 'polar',
    pkg: '@polar-sh/sdk',
    fn: 'validateEvent',
    note: "the secret's text is the key",
    secret: raw,
    body: polar,
    sig: 'webhook-signature',
    late: 301,
    early: 301,
    headers: headers('webhook', 'msg_1', polar, raw),
    verify: (v) => {
      try {
        validateEvent(v.body, v.headers, v.secret);
      } catch (e) {
        // a type that it doesn't know is found out after the signature
        if (e instanceof WebhookVerificationError || !/Unknown event type|Failed to parse/.test(e.message)) throw e;
      }
      return true;
    },
  });
  const finch = JSON.stringify({
    company_id: 'co_9',
    event_type: 'individual.updated',
    data: { individual_id: 'in_1' },
  });
  const finchSecret = key.toString('base64');
  await record({
    provider: 'finch',
    pkg: '@tryfinch/finch-api',
    fn: 'webhooks.unwrap',
    note: 'an individual',
    secret: finchSecret,
    body: finch,
    sig: 'finch-signature',
    late: 301,
    early: 301,
    headers: {
      ...json,
      'finch-event-id': 'ev_1',
      'finch-timestamp': seconds,
      'finch-signature': 'v1,' + hmac('sha256', key, `ev_1.${seconds}.${finch}`, 'base64'),
    },
    verify: (v) => new Finch({ accessToken: 'x' }).webhooks.unwrap(v.body, v.headers, v.secret) !== undefined,
  });
}
