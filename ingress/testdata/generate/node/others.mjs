// Providers that publish no verifier of their own, by the verifiers that others have written for them: those of n8n's
// nodes, of a module for Nuxt, and of a library.
import Module, { createRequire, register } from 'node:module';
import { IncomingMessage, ServerResponse } from 'node:http';
import { createEvent } from 'h3';
import tern from '@hookflo/tern';
import { hmac, record, seconds } from './record.mjs';

const secret = 'penstock-test-secret ☃';
const json = { 'Content-Type': 'application/json' };
const requireHere = createRequire(import.meta.url);

// The Nuxt module asks its framework for the configuration.
register(
  'data:text/javascript,' +
    encodeURIComponent(`export function resolve(name, context, next) {
  return name === '#imports' ? { url: 'data:text/javascript,export const useRuntimeConfig = () => globalThis.nuxt', shortCircuit: true } : next(name, context);
}`),
  import.meta.url,
);

// n8n's nodes ask theirs for names that verifying doesn't need.
const load = Module._load;
Module._load = (name, ...rest) => (name === 'n8n-workflow' ? { NodeConnectionTypes: {} } : load(name, ...rest));

const lower = (headers) => Object.fromEntries(Object.entries(headers).map(([k, v]) => [k.toLowerCase(), v]));

async function nuxt(provider, file, key, v) {
  globalThis.nuxt = { webhook: { [provider]: key(v.secret) } };
  const validators = await import(
    new URL(`node_modules/nuxt-webhook-validators/dist/runtime/server/lib/validators/${file}.js`, import.meta.url)
  );
  const req = Object.assign(new IncomingMessage(null), {
    method: v.method,
    url: v.url,
    headers: lower(v.headers),
    body: v.body,
  });
  return Object.values(validators)[0](createEvent(req, new ServerResponse(req)));
}

function n8n(node, v) {
  const helpers = requireHere(`./node_modules/n8n-nodes-base/dist/nodes/${node}/${node}TriggerHelpers.js`);
  const headers = lower(v.headers);
  return helpers.verifySignature.call({
    getRequestObject: () => ({ rawBody: Buffer.from(v.body), header: (name) => headers[name] }),
    getHeaderData: () => headers,
    getBodyData: () => JSON.parse(v.body),
    getWorkflowStaticData: () => ({ webhookSecret: v.secret, hookSecret: v.secret }),
    getCredentials: async () => ({ webhookSigningKey: v.secret, oauthSecret: v.secret }),
    getNodeParameter: (_, value) => value,
    getNodeWebhookUrl: () => v.url,
  });
}

export async function others() {
  const byNuxt = { by: 'other', pkg: 'nuxt-webhook-validators' };
  for (const [provider, file, header, more, body, signature, key] of [
    [
      'docusign',
      'docusign',
      'X-DocuSign-Signature-1',
      { 'X-DocuSign-Signature-2': 'A'.repeat(43) + '=' },
      '{"event":"envelope-completed","apiVersion":"v2.1","generatedDateTime":"2026-01-15T12:00:00.0000000Z","data":{"accountId":"a1","envelopeId":"e9","name":"Müller"}}',
      'base64',
    ],
    [
      'dropbox',
      'dropbox',
      'X-Dropbox-Signature',
      {},
      '{"list_folder":{"accounts":["dbid:AAH4f99T0taONIb-OurWxbNQ6ywGRopQngc"]},"delta":{"users":[12345678]}}',
      'hex',
      (s) => ({ appSecret: s }),
    ],
    [
      'heroku',
      'heroku',
      'Heroku-Webhook-Hmac-SHA256',
      {},
      '{"id":"4fae8a1f","action":"update","resource":"release","webhook_metadata":{"event":{"id":"ev1","include":"api:release"}},"data":{"description":"Über"}}',
      'base64',
    ],
    [
      'calcom',
      'calcom.post',
      'X-Cal-Signature-256',
      {},
      '{"triggerEvent":"BOOKING_CREATED","createdAt":"2026-01-15T12:00:00.000Z","payload":{"uid":"bFJeNb2uX8ANpT3JL5EfXw","title":"Café"}}',
      'hex',
    ],
    [
      'vercel',
      'vercel',
      'x-vercel-signature',
      {},
      '{"id":"uev_1","type":"deployment.created","createdAt":1768478400000,"payload":{"deployment":{"id":"dpl_1","name":"été"}}}',
      'sha1',
    ],
  ]) {
    await record({
      ...byNuxt,
      provider,
      fn: file,
      note: signature === 'sha1' ? 'SHA-1, hex' : `SHA-256, ${signature}`,
      secret,
      body,
      sig: header,
      headers: {
        ...json,
        ...more,
        [header]: hmac(
          signature === 'sha1' ? 'sha1' : 'sha256',
          secret,
          body,
          signature === 'sha1' ? 'hex' : signature,
        ),
      },
      verify: (v) => nuxt(provider, file, key ?? ((s) => ({ secretKey: s })), v),
    });
  }

  const byN8n = { by: 'other', pkg: 'n8n-nodes-base' };
  const asana =
    '{"events":[{"user":{"gid":"1"},"resource":{"gid":"12","resource_type":"task"},"action":"changed","created_at":"2026-01-15T12:00:00.000Z"}]}';
  const typeform =
    '{"event_id":"LtWXD3crgy","event_type":"form_response","form_response":{"form_id":"lT4Z3j","answers":[{"text":"Où ?"}]}}';
  const calendly =
    '{"event":"invitee.created","created_at":"2026-01-15T12:00:00.000000Z","created_by":"https://api.calendly.com/users/A1","payload":{"uri":"https://api.calendly.com/scheduled_events/E1/invitees/I1","name":"Žofie"}}';
  const customer =
    '{"event_id":"01E2EMRMM6TZ12TF9WGZN0WJQT","object_type":"email","metric":"opened","timestamp":1768478400,"data":{"customer_id":"0200102","subject":"Grüße"}}';
  const zendesk =
    '{"type":"zen:event-type:ticket.created","id":"cbe4028c-7239-495d-b020-f22348516046","time":"2026-01-15T12:00:00Z","subject":"zen:ticket:12","detail":{"id":"12"}}';
  const when = '2026-01-15T12:00:00Z';
  for (const [provider, node, header, headers, body, more] of [
    ['asana', 'Asana', 'X-Hook-Signature', { 'X-Hook-Signature': hmac('sha256', secret, asana, 'hex') }, asana],
    [
      'typeform',
      'Typeform',
      'Typeform-Signature',
      { 'Typeform-Signature': 'sha256=' + hmac('sha256', secret, typeform, 'base64') },
      typeform,
    ],
    [
      'calendly',
      'Calendly',
      'Calendly-Webhook-Signature',
      { 'Calendly-Webhook-Signature': `t=${seconds},v1=${hmac('sha256', secret, `${seconds}.${calendly}`, 'hex')}` },
      calendly,
      { late: 301, early: 301 },
    ],
    [
      'customerio',
      'CustomerIo',
      'X-CIO-Signature',
      { 'X-CIO-Timestamp': seconds, 'X-CIO-Signature': hmac('sha256', secret, `v0:${seconds}:${customer}`, 'hex') },
      customer,
      { late: 301, early: 301 },
    ],
    [
      'zendesk',
      'Zendesk',
      'X-Zendesk-Webhook-Signature',
      {
        'X-Zendesk-Webhook-Signature-Timestamp': when,
        'X-Zendesk-Webhook-Signature': hmac('sha256', secret, when + zendesk, 'base64'),
        'X-Zendesk-Webhook-Invocation-Id': '01HZX',
      },
      zendesk,
    ],
  ]) {
    await record({
      ...byN8n,
      provider,
      fn: `${node}TriggerHelpers.verifySignature`,
      note: 'an event',
      secret,
      body,
      sig: header,
      headers: { ...json, ...headers },
      ...more,
      verify: (v) => n8n(node, v),
    });
  }
  const card =
    '{"action":{"id":"51f9424bcd6e040f3c002412","type":"updateCard","data":{"card":{"id":"c1","name":"Straße"}}},"model":{"id":"4d5ea62fd76aa1136000000c"}}';
  await record({
    ...byN8n,
    provider: 'trello',
    fn: 'TrelloTriggerHelpers.verifySignature',
    note: 'the URL follows the body',
    secret,
    body: card,
    sig: 'X-Trello-Webhook',
    headers: {
      ...json,
      'X-Trello-Webhook': hmac('sha1', secret, `${card}https://hooks.example.com/hooks/trello`, 'base64'),
    },
    alter: [{ note: 'another URL', reason: 'wrong-signature', url: 'https://hooks.example.com/hooks/trellos' }],
    verify: (v) => n8n('Trello', v),
  });
  const figma =
    '{"event_type":"FILE_COMMENT","file_key":"zH24PsdAe6FeAJuFMAQHpU","passcode":"penstock-test-secret","timestamp":"2026-01-15T12:00:00Z","webhook_id":"22","comment_id":"32"}';
  await record({
    ...byN8n,
    provider: 'figma',
    fn: 'FigmaTriggerHelpers.verifySignature',
    note: 'nothing is signed; the passcode is in the body',
    secret: 'penstock-test-secret',
    body: figma,
    unsigned: true,
    headers: json,
    alter: [{ note: 'another passcode', reason: 'wrong-signature', body: figma.replace('test', 'tost') }],
    verify: (v) => n8n('Figma', v),
  });

  const task =
    '{"event":"taskUpdated","history_items":[{"id":"2800763136717140857","field":"status"}],"task_id":"1vj37mc","webhook_id":"7fa3ec74"}';
  await record({
    ...byN8n,
    provider: 'clickup',
    fn: 'ClickUpTrigger.webhook',
    note: 'a task',
    secret,
    body: task,
    sig: 'X-Signature',
    headers: { ...json, 'X-Signature': hmac('sha256', secret, task, 'hex') },
    verify: async (v) => {
      const { ClickUpTrigger } = requireHere('./node_modules/n8n-nodes-base/dist/nodes/ClickUp/ClickUpTrigger.node.js');
      const answer = await ClickUpTrigger.prototype.webhook.call({
        getWorkflowStaticData: () => ({ secret: v.secret }),
        getHeaderData: () => lower(v.headers),
        getRequestObject: () => ({ body: JSON.parse(v.body) }),
        helpers: { returnJsonArray: (x) => [x] },
      });
      return answer.workflowData !== undefined;
    },
  });

  const byTern = { by: 'other', pkg: '@hookflo/tern', fn: 'WebhookVerificationService.verifyWithPlatformConfig' };
  const lemon =
    '{"meta":{"event_name":"order_created","webhook_id":"w1"},"data":{"type":"orders","id":"1","attributes":{"user_name":"Åse"}}}';
  const sentry =
    '{"action":"created","installation":{"uuid":"i1"},"data":{"issue":{"id":"1170820242","title":"Fehler: größer"}}}';
  for (const [provider, body, sig, more] of [
    ['lemonsqueezy', lemon, 'X-Signature', { 'X-Event-Name': 'order_created' }],
    [
      'sentry',
      sentry,
      'Sentry-Hook-Signature',
      { 'Sentry-Hook-Resource': 'issue', 'Sentry-Hook-Timestamp': seconds, 'Request-ID': 'r1' },
    ],
  ]) {
    await record({
      ...byTern,
      provider,
      note: 'an event',
      secret,
      body,
      sig,
      headers: { ...json, ...more, [sig]: hmac('sha256', secret, body, 'hex') },
      verify: async (v) =>
        (await tern.WebhookVerificationService.verifyWithPlatformConfig(new Request(v.url, v), provider, v.secret))
          .isValid,
    });
  }
  const wc = '{"id":727,"status":"processing","total":"29.35","billing":{"first_name":"Zoë"}}';
  await record({
    ...byTern,
    provider: 'woocommerce',
    note: 'an order',
    secret,
    body: wc,
    sig: 'X-WC-Webhook-Signature',
    headers: {
      ...json,
      'X-WC-Webhook-Topic': 'order.created',
      'X-WC-Webhook-ID': '9',
      'X-WC-Webhook-Delivery-ID': 'd1',
      'X-WC-Webhook-Signature': hmac('sha256', secret, wc, 'base64'),
    },
    verify: async (v) =>
      (await tern.WebhookVerificationService.verifyWithPlatformConfig(new Request(v.url, v), 'woocommerce', v.secret))
        .isValid,
  });
}
