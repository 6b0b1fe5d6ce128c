package ingress

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// batchOf is a batch as the door puts it into the inbox.
func batchOf(provider, body string) eventstore.Entry {
	return eventstore.Entry{
		Kind: eventstore.KindDelivery, ID: "b1", Source: "src", Type: provider + ".batch", Stream: "src/b1",
		Received: time.Unix(1_700_000_000, 0), ContentType: "application/json", Verification: provider + "; body",
		Correlation: "b1", TraceParent: "00-1-2-01", Headers: map[string]string{"x-app": "a"}, Body: []byte(body),
	}
}

// The bodies are the providers' own examples, shortened.
func TestBatchesOfProviders(t *testing.T) {
	for _, c := range []struct {
		provider string
		split    *Split
		body     string
		want     []string // id, type and stream of each item
	}{
		{"sendgrid", splitSendGrid, `[
  {"email":"example@test.com","timestamp":1513299569,"smtp-id":"<14c5d75ce93.dfd.64b469@ismtpd-555>","event":"processed",
   "category":["cat facts"],"sg_event_id":"sg_event_id==","sg_message_id":"14c5d75ce93.dfd.64b469.filter0001.16648.5515E0B88.0"},
  {"email":"example@test.com","timestamp":1513299569,"event":"deferred","sg_event_id":"t7LEShmowp86DTdUW8M-GQ==",
   "sg_message_id":"14c5d75ce93.dfd.64b469.filter0001.16648.5515E0B88.0","response":"400 try again later","attempt":"5"},
  {"email":"example@test.com","event":"group unsubscribe"}
]`, []string{
			"sg_event_id== sendgrid.processed src/14c5d75ce93.dfd.64b469.filter0001.16648.5515E0B88.0",
			"t7LEShmowp86DTdUW8M-GQ== sendgrid.deferred src/14c5d75ce93.dfd.64b469.filter0001.16648.5515E0B88.0",
			"b1#2 sendgrid.group_unsubscribe src/b1#2",
		}},
		{"hubspot", splitHubSpot, `[{"objectId":1246965,"propertyName":"lifecyclestage","propertyValue":"subscriber","changeSource":"ACADEMY",
 "eventId":3816279340,"subscriptionId":25,"portalId":33,"appId":1160452,"occurredAt":1462216307945,
 "subscriptionType":"contact.propertyChange","attemptNumber":0},
 {"objectId":1246965,"changeSource":"IMPORT","eventId":3816279480,"subscriptionId":22,"portalId":33,"appId":1160452,
 "occurredAt":1462216307945,"subscriptionType":"deal.creation","attemptNumber":0},
 {"eventId":1,"subscriptionId":9,"portalId":33,"objectTypeId":"0-1","objectId":7,"occurredAt":5,"subscriptionType":"object.creation"},
 {"eventId":2,"subscriptionId":8,"fromObjectId":3,"toObjectId":4,"occurredAt":6,"subscriptionType":"contact.associationChange"}]`, []string{
			"3816279340:1462216307945:25:1246965 hubspot.contact.propertyChange src/contact:1246965",
			"3816279480:1462216307945:22:1246965 hubspot.deal.creation src/deal:1246965",
			"1:5:9:7 hubspot.object.creation src/0-1:7",
			"2:6:8::3:4 hubspot.contact.associationChange src/contact:3",
		}},
		{"meta", splitMeta, `{"object":"whatsapp_business_account","entry":[{"id":"WABA","changes":[
 {"value":{"messaging_product":"whatsapp","metadata":{"phone_number_id":"P"},"contacts":[{"wa_id":"4915"}],
  "messages":[{"from":"4915","id":"wamid.A","timestamp":"1","text":{"body":"{[\"]}"},"type":"text"},{"from":"4915","id":"wamid.B"}]},"field":"messages"},
 {"value":{"statuses":[{"id":"wamid.A","status":"read","recipient_id":"4915"}]},"field":"messages"},
 {"value":{"event":"APPROVED"},"field":"account_update"}]}]}`, []string{
			"wamid.A,wamid.B meta.whatsapp_business_account.messages src/4915",
			"wamid.A:read meta.whatsapp_business_account.messages src/4915",
			"b1#2 meta.whatsapp_business_account.account_update src/WABA",
		}},
		{"meta", splitMeta, `{"object":"page","entry":[
 {"id":"PAGE","time":1458692752478,"messaging":[
  {"sender":{"id":"U1"},"recipient":{"id":"PAGE"},"timestamp":1,"message":{"mid":"mid.1","text":"hi"}},
  {"sender":{"id":"U1"},"recipient":{"id":"PAGE"},"timestamp":2,"message":{"mid":"mid.1","is_deleted":true}},
  {"sender":{"id":"U1"},"recipient":{"id":"PAGE"},"delivery":{"mids":["mid.1"],"watermark":3}}]},
 {"id":"PAGE","standby":[{"sender":{"id":"U2"},"message":{"mid":"mid.2"}}]},
 {"id":"PAGE","changes":[{"field":"leadgen","value":{"leadgen_id":44}}]}]}`, []string{
			"leadgen:44 meta.page.leadgen src/PAGE",
			"mid.1:messaging meta.page.messaging src/PAGE:U1",
			"mid.1:messaging::true meta.page.messaging src/PAGE:U1",
			"b1#3 meta.page.messaging src/PAGE:U1",
			"mid.2:standby meta.page.standby src/PAGE:U2",
		}},
		{"msgraph", splitGraph, `{"value":[{"id":"lsgTZMr9KwAAA","subscriptionId":"7f105c7d","subscriptionExpirationDateTime":"2016-03-20T11:00:00.0000000Z",
 "clientState":"secret","changeType":"created","resource":"users/x/messages/y","tenantId":"84bd8158",
 "resourceData":{"@odata.type":"#Microsoft.Graph.Message","id":"y"}},
 {"subscriptionId":"7f105c7d","lifecycleEvent":"reauthorizationRequired"}]}`, []string{
			"lsgTZMr9KwAAA msgraph.created src/7f105c7d",
			"b1#1 msgraph.lifecycle.reauthorizationRequired src/7f105c7d",
		}},
		{"okta", splitOkta, `{"eventType":"com.okta.event_hook","eventId":"b5a188b9","data":{"events":[{"uuid":"35ef6f62","eventType":"user.lifecycle.create",
 "actor":{"id":"00u1"},"target":[{"id":"00u2","type":"User"},{"id":"00u3"}]},{"uuid":"35ef6f63","eventType":"user.session.start","actor":{"id":"00u1"},"target":null}]},"source":"https://x.okta.com"}`, []string{
			"35ef6f62 okta.user.lifecycle.create src/00u2",
			"35ef6f63 okta.user.session.start src/00u1",
		}},
		{"adyen", splitAdyen, `{"live":"false","notificationItems":[{"NotificationRequestItem":{"eventCode":"AUTHORISATION","success":"true","pspReference":"7914073381342284",
 "amount":{"value":1130,"currency":"EUR"},"merchantReference":"TestPayment-1407325143704"}},
 {"NotificationRequestItem":{"eventCode":"CAPTURE","success":"true","pspReference":"P2","originalReference":"7914073381342284"}}]}`, []string{
			"7914073381342284:AUTHORISATION:true adyen.AUTHORISATION src/7914073381342284",
			"P2:CAPTURE:true adyen.CAPTURE src/7914073381342284",
		}},
		{"asana", splitAsana, `{"events":[{"action":"changed","resource":{"gid":"1337","resource_type":"task"},"change":{"field":"name"}}]}`,
			[]string{"b1#0 asana.task.changed src/1337"}},
		{"asana", splitAsana, `{"events":[]}`, nil},
		{"mandrill", splitMandrill, "mandrill_events=" + url.QueryEscape(`[{"event":"open","ts":1365109999,"_id":"exampleaaa","ip":"127.0.0.1","msg":{"subject":"a b+c"}},
 {"type":"blacklist","action":"add","ts":1365109999,"reject":{"email":"a@example.com"}}]`), []string{
			"exampleaaa:open:1365109999:127.0.0.1 mandrill.open src/exampleaaa",
			"b1#1 mandrill.blacklist.add src/a@example.com",
		}},
		{"klaviyo", splitKlaviyo, `{"data":[{"external_id":"5X","topic":"event:klaviyo.sent_sms","payload":{"data":{"relationships":{"profile":{"data":{"id":"01H"}}}}}}],"meta":{}}`,
			[]string{"5X:event:klaviyo.sent_sms klaviyo.event_klaviyo.sent_sms src/01H"}},
		{"gocardless", splitGoCardless, `{"events":[{"id":"EV123","resource_type":"payments","action":"confirmed","links":{"payment":"PM123"}}],"meta":{"webhook_id":"WB123"}}`,
			[]string{"EV123 gocardless.payments.confirmed src/PM123"}},
		{"sparkpost", splitSparkPost, `[{"msys":{"message_event":{"type":"bounce","event_id":"92356927693813856","message_id":"000443ee14578172be22"}}},{"msys":{}}]`, []string{
			"92356927693813856 sparkpost.bounce src/000443ee14578172be22", "b1#1 sparkpost.item src/b1#1",
		}},
		{"xero", splitXero, `{"events":[{"resourceId":"717f","eventDateUtc":"2017-06-21T01:15:39.902","eventType":"UPDATE","eventCategory":"CONTACT","tenantId":"c2cc"}],"firstEventSequence":1}`,
			[]string{"717f:c2cc:CONTACT:UPDATE:2017-06-21T01:15:39.902 xero.CONTACT.UPDATE src/717f"}},
		{"xero", splitXero, `{"events":[],"firstEventSequence":0,"lastEventSequence":0,"entropy":"S0m3r4Nd0mt3xt"}`, nil},
		{"quickbooks", splitQuickBooks, `{"eventNotifications":[{"realmId":"1185883450","dataChangeEvent":{"entities":[{"name":"Customer","id":"1","operation":"Create","lastUpdated":"2015-10-05T14:42:19-0700"}]}}]}`,
			[]string{"1:Customer:Create:2015-10-05T14:42:19-0700::1185883450 quickbooks.Customer.Create src/1185883450:Customer:1"}},
	} {
		e := batchOf(c.provider, c.body)
		p := Provider{Name: c.provider, Split: c.split}
		children, err := SplitBatch(p, e)
		if err != nil {
			t.Errorf("%s: %v", c.provider, err)
			continue
		}
		var got []string
		for _, child := range children {
			got = append(got, fmt.Sprintf("%s %s %s", child.ID, child.Type, child.Stream))
			if child.Kind != eventstore.KindDelivery || child.Source != "src" || child.ContentType != "application/json" || !child.Received.Equal(e.Received) ||
				child.Correlation != "b1" || child.TraceParent != e.TraceParent || child.Verification != c.provider+"; body; part of b1" || child.Headers != nil {
				t.Errorf("%s: %+v", c.provider, child)
			}
			if c.split.Form == "" && !bytes.Contains(e.Body, child.Body) || !json.Valid(child.Body) || child.Body[0] != '{' {
				t.Errorf("%s: %s is not cut out of the body", c.provider, child.Body)
			}
		}
		if strings.Join(got, "\n") != strings.Join(c.want, "\n") {
			t.Errorf("%s:\n got %s\nwant %s", c.provider, strings.Join(got, "\n     "), strings.Join(c.want, "\n     "))
		}
	}
}

// What a provider sends of another shape is set aside whole.
func TestBatchesThatCannotBeRead(t *testing.T) {
	for _, c := range []struct {
		split *Split
		body  string
		field string
	}{
		{splitAsana, `{}`, "body"},
		{splitAsana, `{"events":{}}`, "body"},
		{splitAsana, `[]`, "body"},
		{splitAsana, `{"events":[}`, "body"},
		{splitAsana, ``, "body"},
		{splitAsana, `{"events":[],"events":[{}]}`, "events"},
		{splitAsana, `{"events":[{"action":"a"},{"action":"b","action":"c"}]}`, "action"},
		{splitMeta, `{"object":"page","entry":[{"id":"1"}]}`, "body"},
		{splitMandrill, `other=1`, "mandrill_events"},
		{splitMandrill, `mandrill_events=[]&mandrill_events=[]`, "mandrill_events"},
		{splitMandrill, `mandrill_events=%`, "mandrill_events"},
		{splitMandrill, `mandrill_events={`, "body"},
		{splitSendGrid, `[` + strings.Repeat("{},", maxItems) + `{}]`, "body"},
	} {
		children, err := SplitBatch(Provider{Name: "p", Split: c.split}, batchOf("p", c.body))
		var refusal *domain.Error
		if !errors.As(err, &refusal) || refusal.Class != domain.Invalid || refusal.Field != c.field || children != nil {
			t.Errorf("%.80s: %d items, %v; want a refusal of %s", c.body, len(children), err, c.field)
		}
	}
	if children, err := SplitBatch(Provider{Name: "p", Split: splitSendGrid}, batchOf("p", `[`+strings.Repeat("{},", maxItems-1)+`{}]`)); err != nil || len(children) != maxItems {
		t.Errorf("the most that a batch may hold: %d items, %v", len(children), err)
	}
	for _, body := range []string{`{"events":null}`, " \r\n{\"events\" : [ ] } \t"} {
		if children, err := SplitBatch(Provider{Name: "p", Split: splitAsana}, batchOf("p", body)); err != nil || len(children) != 0 {
			t.Errorf("%s: %v %v", body, children, err)
		}
	}
	if children, err := SplitBatch(Provider{Name: "p"}, batchOf("p", `[{}]`)); err != nil || children != nil {
		t.Errorf("a row without batches: %v %v", children, err)
	}
}

// An item is never lost to what it says of itself.
func TestItemsThatNameThemselvesBadly(t *testing.T) {
	long := strings.Repeat("i", maxID+1)
	body := fmt.Sprintf(`[{"sg_event_id":%q,"event":"é"},{"sg_event_id":"a\u0000b","event":"batch","sg_message_id":"a\nb"},
 {"sg_event_id":{"a":1},"event":["x"]},7,null,"text",[{"event":"x"}],{"sg_event_id":true,"event":%q}]`, long, strings.Repeat("t", maxType))
	children, err := SplitBatch(Provider{Name: "p", Split: splitSendGrid}, batchOf("p", body))
	if err != nil || len(children) != 8 {
		t.Fatalf("%d items, %v", len(children), err)
	}
	ids := map[string]bool{}
	for i, c := range children {
		if ids[c.ID] || c.ID == "" || len(c.ID) > maxID || c.Type != "p.item" || c.Stream != domain.Stream("src/"+c.ID) {
			t.Errorf("item %d is %s %s %s", i, c.ID, c.Type, c.Stream)
		}
		ids[c.ID] = true
	}
	again, err := SplitBatch(Provider{Name: "p", Split: splitSendGrid}, batchOf("p", `[7,`+body[1:]))
	if err != nil || again[1].ID != children[0].ID || again[2].ID != children[1].ID {
		t.Errorf("an id that is too long or not printable identifies still: %v", err)
	}
}

// The items of a replayed batch are called as those of the original; the writer gives them an identity of their own.
func TestAReplayedBatch(t *testing.T) {
	e := batchOf("sendgrid", `[{"sg_event_id":"x"},{}]`)
	e.ReplayOf, e.By, e.Note = e.ID, "me", "why"
	e.ID += "~replay-7"
	children, err := SplitBatch(Provider{Name: "sendgrid", Split: splitSendGrid}, e)
	if err != nil || len(children) != 2 {
		t.Fatal(children, err)
	}
	for i, id := range []string{"x", "b1#1"} {
		if c := children[i]; c.ID != id || c.Stream != domain.Stream("src/"+id) {
			t.Errorf("item %d: %+v", i, c)
		}
	}
}

// Items are cut exactly as encoding/json delimits them, whatever stands in and between them.
func TestItemsAreExactBytes(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	row := Provider{Name: "p", Split: &Split{Items: []Items{{Array: "a.b[].c[]"}}}}
	for range 500 {
		var want []json.RawMessage
		groups := make([]string, r.IntN(4))
		for i := range groups {
			items := make([]string, r.IntN(4))
			for n := range items {
				items[n] = blank(r) + randomJSON(r, 4) + blank(r)
			}
			array := blank(r) + "[" + blank(r) + strings.Join(items, ",") + "]" + blank(r)
			var raw []json.RawMessage
			if err := json.Unmarshal([]byte(array), &raw); err != nil {
				t.Fatalf("%s: %v", array, err)
			}
			want = append(want, raw...)
			groups[i] = blank(r) + `{"x":` + randomJSON(r, 3) + `,"c":` + array + `}` + blank(r)
		}
		body := blank(r) + `{"z":` + randomJSON(r, 3) + `,` + blank(r) + `"a"` + blank(r) + `:` + blank(r) + `{"b":[` + strings.Join(groups, ",") + `]}}` + blank(r)
		children, err := SplitBatch(row, batchOf("p", body))
		if err != nil || len(children) != len(want) {
			t.Fatalf("%s: %d items, %v; want %d", body, len(children), err, len(want))
		}
		for i, c := range children {
			if !bytes.Equal(c.Body, want[i]) {
				t.Fatalf("%s: item %d is %q, want %q", body, i, c.Body, want[i])
			}
		}
	}
}

func blank(r *rand.Rand) string {
	return []string{"", "", " ", "\n\t", " \r\n "}[r.IntN(5)]
}

// randomJSON is a value full of what could be taken for a border.
func randomJSON(r *rand.Rand, depth int) string {
	kinds := 7
	if depth == 0 {
		kinds = 5
	}
	switch r.IntN(kinds) {
	case 0:
		return []string{"0", "-1.5e+3", "12345678901234567890"}[r.IntN(3)]
	case 1:
		return []string{"true", "false", "null"}[r.IntN(3)]
	case 2, 3, 4:
		return []string{`""`, `"]"`, `"}{,:"`, `"\"]\\"`, `"\\\\\""`, `"é\u00e9[\n"`, `"0123456789abcdef\""`}[r.IntN(7)]
	case 5:
		items := make([]string, r.IntN(4))
		for i := range items {
			items[i] = blank(r) + randomJSON(r, depth-1) + blank(r)
		}
		return "[" + blank(r) + strings.Join(items, ",") + "]"
	}
	members := make([]string, r.IntN(4))
	for i := range members {
		members[i] = fmt.Sprintf(`%s"k%d\"%d"%s:%s%s`, blank(r), i, r.IntN(9), blank(r), blank(r), randomJSON(r, depth-1))
	}
	return "{" + blank(r) + strings.Join(members, ",") + "}"
}
