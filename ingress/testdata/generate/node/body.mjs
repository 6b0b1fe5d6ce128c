// Providers that sign the body alone, or send a shared token.
import { sign as signGitHub, verify as verifyGitHub } from '@octokit/webhooks-methods';
import { Webhooks } from '@octokit/webhooks';
import { shopifyApi, ApiVersion } from '@shopify/shopify-api';
import '@shopify/shopify-api/adapters/node';
import { LinearWebhookClient } from '@linear/sdk/webhooks';
import Razorpay from 'razorpay';
import * as GoCardless from 'gocardless-nodejs/webhooks';
import ModernTreasury from 'modern-treasury';
import coinbase from 'coinbase-commerce-node';
import { verifyWebhookSignature } from '@notionhq/client';
import XHubSignature from 'x-hub-signature';
import { Bot, webhookCallback } from 'grammy';
import Adyen from '@adyen/api-library';
import braintree from 'braintree';
import { basicAuthValidator } from 'chargebee';
import { at, change, hmac, record } from './record.mjs';

const secret = 'penstock-test-secret ☃';
const ascii = 'penstock-test-secret';
const json = { 'Content-Type': 'application/json' };

export async function body() {
  const issue =
    '{"action":"opened","issue":{"number":12,"title":"caf\\u00e9 ☕"},"repository":{"full_name":"octo/hello"}}';
  const github = { ...json, 'X-GitHub-Event': 'issues', 'X-GitHub-Delivery': '72d3162e-cc78-11e3-81ab-4c9367dc0958' };
  const octokit = new Webhooks({ secret });
  await record({
    provider: 'github',
    pkg: '@octokit/webhooks',
    fn: 'sign and verify',
    note: 'an issue',
    secret,
    body: issue,
    sig: 'X-Hub-Signature-256',
    headers: { ...github, 'X-Hub-Signature-256': await octokit.sign(issue) },
    verify: (v) => verifyGitHub(v.secret, v.body, v.headers['X-Hub-Signature-256']),
  });
  const form = 'payload=' + encodeURIComponent(issue);
  await record({
    provider: 'github',
    pkg: '@octokit/webhooks',
    fn: 'sign and verify',
    note: 'as a form',
    secret,
    body: form,
    headers: {
      ...github,
      'Content-Type': 'application/x-www-form-urlencoded',
      'X-Hub-Signature-256': await signGitHub(secret, form),
    },
    verify: (v) => new Webhooks({ secret: v.secret }).verify(v.body, v.headers['X-Hub-Signature-256']),
  });

  const order = '{"id":820982911946154508,"email":"jon@example.com","note":"Schöne Grüße \\/ ☕"}';
  const shopify = (apiSecretKey) =>
    shopifyApi({
      apiKey: 'key',
      apiSecretKey,
      apiVersion: ApiVersion.January26 ?? Object.values(ApiVersion)[0],
      hostName: 'hooks.example.com',
      isEmbeddedApp: true,
      logger: { log: () => {} },
    });
  await record({
    provider: 'shopify',
    pkg: '@shopify/shopify-api',
    fn: 'webhooks.validate',
    note: 'an order',
    secret,
    body: order,
    sig: 'X-Shopify-Hmac-Sha256',
    headers: {
      ...json,
      'X-Shopify-Hmac-Sha256': hmac('sha256', secret, order, 'base64'),
      'X-Shopify-Topic': 'orders/create',
      'X-Shopify-Shop-Domain': 'octo.myshopify.com',
      'X-Shopify-API-Version': '2026-01',
      'X-Shopify-Webhook-Id': 'b54557e4-bdd9-4b37-8a5f-bf7d70bcd043',
    },
    verify: async (v) =>
      (
        await shopify(v.secret).webhooks.validate({
          rawBody: v.body,
          rawRequest: { method: v.method, url: new URL(v.url).pathname, headers: v.headers },
          rawResponse: {},
        })
      ).valid,
  });

  const linear = JSON.stringify({
    action: 'create',
    type: 'Issue',
    data: { id: '2174add1-f7c8-44e3-bbf3-2d60b5ea8bc9', title: 'Ünicode' },
    webhookTimestamp: at,
  });
  await record({
    provider: 'linear',
    pkg: '@linear/sdk',
    fn: 'LinearWebhookClient.verify',
    note: 'the time is in the body, in ms',
    secret,
    body: linear,
    sig: 'Linear-Signature',
    late: 61,
    early: 61,
    headers: {
      ...json,
      'Linear-Delivery': '234d1a4e-b617-4388-90fe-adc3633d6b72',
      'Linear-Event': 'Issue',
      'Linear-Signature': hmac('sha256', secret, linear, 'hex'),
    },
    verify: (v) => new LinearWebhookClient(v.secret).verify(Buffer.from(v.body), v.headers['Linear-Signature']),
  });

  const razorpay =
    '{"entity":"event","account_id":"acc_9","event":"payment.captured","payload":{"payment":{"entity":{"id":"pay_1","notes":"दिल्ली"}}}}';
  await record({
    provider: 'razorpay',
    pkg: 'razorpay',
    fn: 'validateWebhookSignature',
    note: 'a payment',
    secret,
    body: razorpay,
    sig: 'X-Razorpay-Signature',
    headers: {
      ...json,
      'X-Razorpay-Event-Id': 'event_1',
      'X-Razorpay-Signature': hmac('sha256', secret, razorpay, 'hex'),
    },
    verify: (v) => Razorpay.validateWebhookSignature(v.body, v.headers['X-Razorpay-Signature'], v.secret),
  });

  const mandates =
    '{"events":[{"id":"EV1","created_at":"2026-01-15T12:00:00Z","action":"created","resource_type":"mandates","links":{"mandate":"MD9"}}],"meta":{"webhook_id":"WB1"}}';
  await record({
    provider: 'gocardless',
    pkg: 'gocardless-nodejs',
    fn: 'webhooks.parse',
    note: 'a batch of one',
    secret,
    body: mandates,
    sig: 'Webhook-Signature',
    headers: { ...json, 'Webhook-Signature': hmac('sha256', secret, mandates, 'hex') },
    verify: (v) => GoCardless.parse(v.body, v.secret, v.headers['Webhook-Signature']).length === 1,
  });

  const treasury = '{"event":"completed","data":{"id":"po_1","object":"payment_order","description":"Brød"}}';
  const mt = new ModernTreasury({ apiKey: 'x', organizationID: 'x' });
  await record({
    provider: 'modern-treasury',
    pkg: 'modern-treasury',
    fn: 'webhooks.getSignature and validateSignature',
    note: 'a payment order',
    secret,
    body: treasury,
    sig: 'X-Signature',
    headers: {
      ...json,
      'X-Topic': 'payment_order',
      'X-Webhook-ID': 'wh_1',
      'X-Signature': mt.webhooks.getSignature(treasury, { key: secret }),
    },
    verify: (v) => mt.webhooks.validateSignature(v.body, v.headers['X-Signature'] ?? '', { key: v.secret }),
  });

  const charge =
    '{"id":"1","attempt_number":1,"event":{"id":"24934862-d980-46cb-9402-43c81b0cdba6","type":"charge:created","data":{"code":"66BEOV2A","name":"Tür"}}}';
  await record({
    provider: 'coinbase',
    pkg: 'coinbase-commerce-node',
    fn: 'Webhook.verifyEventBody',
    note: 'a charge',
    secret,
    body: charge,
    sig: 'X-CC-Webhook-Signature',
    headers: { ...json, 'X-CC-Webhook-Signature': hmac('sha256', secret, charge, 'hex') },
    verify: (v) =>
      coinbase.Webhook.verifyEventBody(v.body, v.headers['X-CC-Webhook-Signature'], v.secret) !== undefined,
  });

  const page =
    '{"id":"367cba44-b6f3-4c92-81e7-6a2e9659efd4","timestamp":"2026-01-15T12:00:00.000Z","type":"page.created","entity":{"id":"153104cd-477e-809d-8dc4-ff2d96ae3090","type":"page"}}';
  await record({
    provider: 'notion',
    pkg: '@notionhq/client',
    fn: 'verifyWebhookSignature',
    note: 'a page',
    secret: ascii,
    body: page,
    sig: 'X-Notion-Signature',
    headers: { ...json, 'X-Notion-Signature': 'sha256=' + hmac('sha256', ascii, page, 'hex') },
    verify: (v) =>
      verifyWebhookSignature({ body: v.body, signature: v.headers['X-Notion-Signature'], verificationToken: v.secret }),
  });

  // A third party's implementation of the header that these four share.
  const hub = {
    meta: [
      'sha256',
      'X-Hub-Signature-256',
      '{"object":"page","entry":[{"id":"9","time":1768478400,"changes":[{"field":"feed","value":{"message":"gr\\u00fc\\u00df"}}]}]}',
      {},
    ],
    intercom: [
      'sha1',
      'X-Hub-Signature',
      '{"type":"notification_event","id":"notif_1","topic":"conversation.user.created","app_id":"a9","data":{"item":{"id":"1"}}}',
      {},
    ],
    jira: [
      'sha256',
      'X-Hub-Signature',
      '{"timestamp":1768478400000,"webhookEvent":"jira:issue_created","issue":{"id":"10002","key":"OCTO-12"}}',
      { 'X-Atlassian-Webhook-Identifier': 'a1' },
    ],
    bitbucket: [
      'sha256',
      'X-Hub-Signature',
      '{"push":{"changes":[]},"repository":{"full_name":"octo/hello"},"actor":{"display_name":"Zoë"}}',
      { 'X-Event-Key': 'repo:push', 'X-Request-UUID': 'f3a1', 'X-Hook-UUID': 'h9' },
    ],
  };
  for (const [provider, [digest, header, text, more]] of Object.entries(hub)) {
    await record({
      provider,
      by: 'other',
      pkg: 'x-hub-signature',
      fn: 'sign and verify',
      note: `${digest}, ${header}`,
      secret,
      body: text,
      sig: header,
      headers: { ...json, ...more, [header]: new XHubSignature(digest, secret).sign(text) },
      verify: (v) => new XHubSignature(digest, v.secret).verify(v.headers[header], v.body),
    });
  }

  const update =
    '{"update_id":10000,"message":{"message_id":1365,"date":1768478400,"chat":{"id":1111111,"type":"private"},"text":"/start"}}';
  await record({
    provider: 'telegram',
    by: 'other',
    pkg: 'grammy',
    fn: 'webhookCallback',
    note: 'nothing is signed',
    secret: 'penstock_test-secret',
    body: update,
    sig: 'X-Telegram-Bot-Api-Secret-Token',
    unsigned: true,
    headers: { ...json, 'X-Telegram-Bot-Api-Secret-Token': 'penstock_test-secret' },
    verify: async (v) => {
      const bot = new Bot('1:x', { botInfo: { id: 1, is_bot: true, first_name: 'x', username: 'x' } });
      const answer = await webhookCallback(bot, 'std/http', { secretToken: v.secret })(new Request(v.url, v));
      return answer.status === 200;
    },
  });

  const subscription =
    '{"id":"ev_1","occurred_at":1768478400,"event_type":"subscription_created","content":{"subscription":{"id":"sub_1"}}}';
  await record({
    provider: 'chargebee',
    pkg: 'chargebee',
    fn: 'basicAuthValidator',
    note: 'nothing is signed; the password has a colon',
    secret: 'hook:s3cret:part',
    body: subscription,
    sig: 'Authorization',
    unsigned: true,
    headers: { ...json, Authorization: 'Basic ' + Buffer.from('hook:s3cret:part').toString('base64') },
    verify: async (v) => {
      await basicAuthValidator((user, password) => `${user}:${password}` === v.secret)(v.headers);
      return true;
    },
  });

  const hmacKey = 'DFB1EB5485895CFA84146406857104ABB4CBCABDC8AAF103A624C8F6A3EAAB00';
  const validator = new Adyen.hmacValidator();
  const item = (reference, original) => {
    const it = {
      pspReference: '7914073381342284',
      ...(original && { originalReference: original }),
      merchantAccountCode: 'TestMerchant',
      merchantReference: reference,
      amount: { value: 1130, currency: 'EUR' },
      eventCode: 'AUTHORISATION',
      eventDate: '2026-01-15T12:00:00+01:00',
      success: 'true',
      paymentMethod: 'visa',
    };
    it.additionalData = { hmacSignature: validator.calculateHmac(it, hmacKey) };
    return { NotificationRequestItem: it };
  };
  const notification = (...items) => JSON.stringify({ live: 'false', notificationItems: items });
  const two = notification(item('TestPayment-1407325143704'), item('Zahlung über 3:10\\2', '9913140798220028'));
  await record({
    provider: 'adyen',
    pkg: '@adyen/api-library',
    fn: 'hmacValidator.calculateHmac and validateHMAC',
    secret: hmacKey,
    body: two,
    unsigned: true,
    note: 'two items; a colon and a backslash stand in the second as they are',
    headers: json,
    alter: [
      { note: 'amount of the second item', reason: 'wrong-signature', body: two.replace(/(.*)1130/, '$19130') },
      { note: 'amount of the first item', reason: 'wrong-signature', body: two.replace('1130', '9130') },
    ],
    verify: (v) =>
      JSON.parse(v.body).notificationItems.every((i) => validator.validateHMAC(i.NotificationRequestItem, v.secret)),
  });

  const gateway = (privateKey) =>
    new braintree.BraintreeGateway({
      environment: braintree.Environment.Sandbox,
      merchantId: 'm',
      publicKey: 'integration_public_key',
      privateKey,
    });
  const sample = gateway(ascii).webhookTesting.sampleNotification(
    braintree.WebhookNotification.Kind.SubscriptionWentPastDue,
    'my_id',
  );
  const fields = (b) => new URLSearchParams(b);
  const bt = new URLSearchParams(sample).toString();
  await record({
    provider: 'braintree',
    pkg: 'braintree',
    fn: 'webhookTesting.sampleNotification and webhookNotification.parse',
    note: 'a subscription',
    secret: ascii,
    body: bt,
    unsigned: true,
    settings: { public_key: 'integration_public_key' },
    headers: { 'Content-Type': 'application/x-www-form-urlencoded' },
    alter: [{ note: 'payload changed', reason: 'wrong-signature', body: change(bt, bt.indexOf('bt_payload=') + 200) }],
    verify: async (v) =>
      (
        await gateway(v.secret).webhookNotification.parse(
          fields(v.body).get('bt_signature'),
          fields(v.body).get('bt_payload'),
        )
      ).subject !== undefined,
  });
}
