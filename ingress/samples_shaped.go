package ingress

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// sampleTopic is the topic of samples of Amazon SNS.
const sampleTopic = "arn:aws:sns:eu-central-1:123456789012:orders"

// sampleType is the type of the row's sample, as the event will be called.
func (p *Provider) sampleType() string {
	kind := first(p.Sample, "example")
	if p.Split != nil {
		kind = batchKind
	}
	name, err := typeName(p.Name, kind)
	if err != nil {
		return p.Name + ".example"
	}
	return name
}

// shapes are the bodies of samples that a row's fields don't give away. The shapes are the providers' own, shortened.
var shapes = map[string]func(Facts) any{
	"sendgrid": func(f Facts) any {
		return []object{{
			"email": "mona@example.com", "event": "delivered", "timestamp": f.Time.Unix(), "sg_event_id": f.ID, "sg_message_id": "msg-" + f.ID,
		}}
	},
	"hubspot": func(f Facts) any {
		return []object{{
			"eventId": f.Number, "subscriptionId": 1, "portalId": 33, "occurredAt": f.Time.UnixMilli(), "attemptNumber": 0,
			"subscriptionType": "contact.creation", "objectId": 123, "changeSource": f.ID,
		}}
	},
	"meta": func(f Facts) any {
		return object{"object": "whatsapp_business_account", "entry": []object{{"id": "102290129340398", "changes": []object{{
			"field": "messages", "value": object{"messaging_product": "whatsapp", "messages": []object{{
				"id": "wamid." + f.ID, "from": "16505551234", "timestamp": fmt.Sprint(f.Time.Unix()), "type": "text", "text": object{"body": f.Text},
			}}},
		}}}}}
	},
	"microsoft-graph": func(f Facts) any {
		return object{"value": []object{{
			"id": f.ID, "subscriptionId": "7f105c7d-2dc5-4530-97cd-4e7ae6534c07", "changeType": "created",
			"resource": "users/ddfcd489/messages/AAMk", "subscriptionExpirationDateTime": f.Time.Add(time.Hour).UTC().Format(time.RFC3339),
		}}}
	},
	"okta": func(f Facts) any {
		return object{
			"eventId": f.ID, "eventType": "com.okta.event_hook", "eventTime": f.Time.UTC().Format(time.RFC3339),
			"data": object{"events": []object{{"uuid": "u-" + f.ID, "eventType": "user.lifecycle.create", "target": []object{{"id": "00u9"}}}}},
		}
	},
	"adyen": func(f Facts) any {
		return object{"live": "false", "notificationItems": []object{{"NotificationRequestItem": object{
			"pspReference": f.ID, "merchantAccountCode": "TestMerchant", "merchantReference": "order-9", "eventCode": "AUTHORISATION",
			"eventDate": f.Time.UTC().Format(time.RFC3339), "success": "true",
			"amount": object{"value": f.Amount, "currency": strings.ToUpper(f.Currency)},
		}}}}
	},
	"asana": func(f Facts) any {
		return object{"events": []object{{
			"action": "changed", "created_at": f.Time.UTC().Format(time.RFC3339Nano), "resource": object{"gid": f.ID, "resource_type": "task"},
		}}}
	},
	"mandrill": func(f Facts) any {
		events, _ := json.Marshal([]object{{"event": "send", "_id": f.ID, "ts": f.Time.Unix()}}) // strings and a number
		return object{"mandrill_events": string(events)}
	},
	"klaviyo": func(f Facts) any {
		return object{"meta": object{"timestamp": f.Time.UTC().Format(time.RFC3339)}, "data": []object{{
			"topic": "event:klaviyo.sent_sms", "external_id": f.ID, "payload": object{},
		}}}
	},
	"gocardless": func(f Facts) any {
		return object{"meta": object{"webhook_id": f.ID}, "events": []object{{
			"id": "EV" + f.ID, "resource_type": "payments", "action": "confirmed", "links": object{"payment": "PM123"},
		}}}
	},
	"xero": func(f Facts) any {
		return object{"events": []object{{
			"resourceId": f.ID, "tenantId": "t1", "eventCategory": "INVOICE", "eventType": "CREATE",
			"eventDateUtc": f.Time.UTC().Format("2006-01-02T15:04:05.000"),
		}}, "firstEventSequence": 1, "lastEventSequence": 1, "entropy": f.ID}
	},
	"quickbooks": func(f Facts) any {
		return object{"eventNotifications": []object{{"realmId": "1185883450", "dataChangeEvent": object{"entities": []object{{
			"name": "Customer", "id": f.ID, "operation": "Create", "lastUpdated": f.Time.UTC().Format(time.RFC3339),
		}}}}}}
	},
	"braintree": func(f Facts) any {
		xml := "<notification><timestamp type=\"datetime\">" + f.Time.UTC().Format(time.RFC3339) +
			"</timestamp><kind>subscription_charged_successfully</kind><subject><subscription><id>" + f.ID +
			"</id></subscription></subject></notification>"
		return object{"bt_payload": base64.StdEncoding.EncodeToString([]byte(xml)) + "\n"}
	},
	"twilio": func(f Facts) any {
		return object{
			"MessageSid": "SM" + f.ID, "AccountSid": "AC1", "MessageStatus": "delivered", "From": "+14158675310", "To": "+18005551212",
		}
	},
	"sns": func(f Facts) any {
		return object{
			"Type": "Notification", "MessageId": f.ID, "TopicArn": sampleTopic, "Message": f.Text, "SignatureVersion": "2",
			"SigningCertURL": "https://sns.eu-central-1.amazonaws.com/SimpleNotificationService-9c6465fa7f48f5cacd23014631ec1136.pem",
		}
	},
	"mailgun": func(f Facts) any {
		return object{
			"signature":  object{"token": f.ID},
			"event-data": object{"event": "delivered", "id": "e-" + f.ID, "recipient": "mona@example.com", "timestamp": f.Time.Unix()},
		}
	},
	"discord": func(f Facts) any {
		return object{
			"version": 1, "application_id": "1234560123453231555", "type": 1, "event": object{
				"type": "APPLICATION_AUTHORIZED", "timestamp": f.Time.UTC().Format(time.RFC3339Nano),
				"data": object{"user": object{"id": "9", "username": f.ID}},
			},
		}
	},
	"dropbox": func(f Facts) any { return object{"list_folder": object{"accounts": []string{"dbid:" + f.ID}}} },
	"sparkpost": func(f Facts) any {
		return []object{{"msys": object{"message_event": object{"type": "delivery", "event_id": f.ID}}}}
	},
}

// shaped makes a delivery out of what the row looks at.
func (p Provider) shaped(kind string, f Facts) (Delivery, error) {
	d := Delivery{Provider: p, Type: kind, Header: http.Header{}}
	d.Header.Set("Content-Type", p.ContentTypes[0])
	d.Header.Set("User-Agent", "penstock-sample")
	text := strings.TrimPrefix(kind, p.Name+".")
	if kind == p.sampleType() {
		text = first(p.Sample, "example")
	}
	var body any
	if shape := shapes[p.Name]; shape != nil {
		body = shape(f)
	} else {
		o := object{"note": "a sample made by Penstock", "nonce": f.ID}
		for i, fields := range [][]Field{p.Type, p.ID, p.Subject} {
			if len(fields) > 0 {
				fields[0].put(d.Header, o, []string{text, f.ID, p.Name + "_9"}[i])
			}
		}
		body = o
	}
	for _, part := range p.Scheme.Message {
		if part.kind == partHeader && d.Header.Get(part.text) == "" {
			d.Header.Set(part.text, f.ID)
		}
		if part.kind == partQuery {
			d.Query = "?" + url.Values{part.text: {f.ID}}.Encode()
		}
	}
	if p.Name == "paypal" {
		d.Header.Set("Paypal-Cert-Url", "https://api.paypal.com/v1/notifications/certs/CERT-360caa42-fca2a594-1d93a270")
		d.Header.Set("Paypal-Auth-Algo", "SHA256withRSA")
	}
	var err error
	if p.ContentTypes[0] == formType {
		form := url.Values{}
		for name, value := range body.(object) {
			form.Set(name, fmt.Sprint(value))
		}
		d.Body = []byte(form.Encode())
	} else if d.Body, err = json.Marshal(body); err != nil {
		return Delivery{}, fmt.Errorf("sample %s: %w", kind, err)
	}
	return d, nil
}

// put writes text where the field looks for it, unless something stands there.
func (f Field) put(h http.Header, body object, text string) {
	switch f.in {
	case fieldHeader:
		if h.Get(f.name) == "" {
			h.Set(f.name, text)
		}
	case fieldBody:
		at := body
		names := strings.Split(f.name, ".")
		for _, name := range names[:len(names)-1] {
			next, ok := at[name].(object)
			if !ok && at[name] != nil {
				return
			}
			if !ok {
				next = object{}
				at[name] = next
			}
			at = next
		}
		if last := names[len(names)-1]; at[last] == nil {
			at[last] = text
		}
	case fieldKey:
		if body[text] == nil {
			body[text] = object{}
		}
	case fieldJoin:
		for i, part := range f.parts {
			one, rest, _ := strings.Cut(text, f.name)
			if i == len(f.parts)-1 {
				one = text
			}
			if part.put(h, body, one); rest != "" {
				text = rest
			}
		}
	}
}
