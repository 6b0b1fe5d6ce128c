package ingress

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/domain"
)

// What an operator can write is signed, verified, and filed by the same engine.
func TestRowsOfOperators(t *testing.T) {
	v := newVendors(t)
	minutes := CustomTime{Header: "X-Time", Tolerance: 5 * time.Minute}
	for name, c := range map[string]struct {
		row       Custom
		secret    Secret // "" for one of the row's form
		binding   Binding
		signature string // how it begins
	}{
		"plain":      {Custom{Header: "x-acme-signature"}, Secret("s"), BodySigned, ""},
		"prefix":     {Custom{Header: "X-Sig", Prefix: "sha1=", Algorithm: "hmac-sha1"}, Secret("s"), BodySigned, "sha1="},
		"sha512":     {Custom{Header: "X-Sig", Algorithm: "hmac-sha512", Encoding: "base64url"}, Secret("s"), BodySigned, ""},
		"stripe":     {Custom{Header: "X-Sig", Layout: "pairs", Label: "v1", Message: "{timestamp}.{body}", Timestamp: CustomTime{Key: "t", Tolerance: time.Minute}}, Secret("s"), BodySigned, "t=1767225600,v1="},
		"semicolons": {Custom{Header: "X-Sig", Layout: "pairs", Label: "h1", Separator: ";", Assign: ":", Message: "{timestamp}:{body}", Timestamp: CustomTime{Key: "ts"}}, Secret("s"), BodySigned, "ts:1767225600;h1:"},
		"slack":      {Custom{Header: "X-Sig", Prefix: "v0=", Message: "v0:{timestamp}:{body}", Timestamp: minutes}, Secret("s"), BodySigned, "v0="},
		"standard":   {Custom{Header: "X-Sig", Layout: "tagged", Label: "v1", Key: "whsec", Encoding: "base64", Message: "{header:x-id}.{timestamp}.{body}", Timestamp: minutes}, Secret("whsec_c2VjcmV0"), BodySigned, "v1,"},
		"positional": {Custom{Header: "X-Sig", Layout: "positional", Message: "{timestamp}.{body}"}, Secret("s"), BodySigned, "1767225600,"},
		"list":       {Custom{Header: "X-Sig", Layout: "list", Separator: " "}, Secret("s"), BodySigned, ""},
		"braces":     {Custom{Header: "X-Sig", Message: "{{{body}}}"}, Secret("s"), BodySigned, ""},
		"address":    {Custom{Header: "X-Sig", Message: "{method} {url}"}, Secret("s"), RequestSigned, ""},
		"path":       {Custom{Header: "X-Sig", Message: "{method}{path}{query:a}{body}{secret}"}, Secret("s"), BodySigned, ""},
		"fields":     {Custom{Header: "X-Sig", Message: "{json:id}|{json:data.n}"}, Secret("s"), MetadataSigned, ""},
		"body time":  {Custom{Header: "X-Sig", Timestamp: CustomTime{Body: "at", Unit: "milliseconds", Tolerance: time.Minute}}, Secret("s"), BodySigned, ""},
		"iso":        {Custom{Header: "X-Sig", Message: "{timestamp}{body}", Timestamp: CustomTime{Header: "X-Time", Unit: "iso", Tolerance: time.Minute}}, Secret("s"), BodySigned, ""},
		"hex key":    {Custom{Header: "X-Sig", Key: "hex"}, Secret("00ff"), BodySigned, ""},
		"base64 key": {Custom{Header: "X-Sig", Key: "base64"}, Secret("c2VjcmV0"), BodySigned, ""},
		"sha1 key":   {Custom{Header: "X-Sig", Key: "sha1"}, Secret("s"), BodySigned, ""},
		"ed25519":    {Custom{Header: "X-Sig", Algorithm: "ed25519", Encoding: "base64"}, nil, BodySigned, ""},
		"ecdsa":      {Custom{Header: "X-Sig", Algorithm: "ecdsa-p256-sha256", Encoding: "base64"}, nil, BodySigned, ""},
		"rsa":        {Custom{Header: "X-Sig", Algorithm: "rsa-sha256", Encoding: "base64"}, nil, BodySigned, ""},
		"token":      {Custom{Header: "X-Token", Algorithm: "token"}, Secret("s3cret"), SharedToken, "s3cret"},
		"bearer":     {Custom{Header: "Authorization", Algorithm: "token", Prefix: "Bearer "}, Secret("s3cret"), SharedToken, "Bearer s3cret"},
		"basic":      {Custom{Header: "Authorization", Algorithm: "basic"}, Secret("user:pass:word"), SharedToken, "Basic "},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := NewProvider("acme", c.row)
			if err != nil {
				t.Fatal(err)
			}
			if p.Binding != c.binding {
				t.Errorf("bound to %s", p.Binding)
			}
			key, secret := v.of(&p.Scheme), c.secret
			if key != nil {
				secret = publicPEM(key)
			}
			r := Request{Method: "POST", URL: publicBase + "/hooks/acme?a=1", Header: http.Header{"X-Id": {"i1"}}, Body: []byte(`{"id":"x","data":{"n":7},"at":0}`)}
			if err := p.Scheme.SignWith(&r, secret, key, signedAt); err != nil {
				t.Fatal(err)
			}
			if sig := r.Header.Get(c.row.Header); !strings.HasPrefix(sig, c.signature) {
				t.Errorf("%s: %s", c.row.Header, sig)
			}
			if err := p.Scheme.Verify(t.Context(), &r, Keys(secret), signedAt); err != nil {
				t.Fatal(err)
			}
			r.Body = append(r.Body, ' ')
			if err := p.Scheme.Verify(t.Context(), &r, Keys(secret), signedAt); (err != nil) != (c.binding == BodySigned) {
				t.Errorf("another body: %v", err)
			}
		})
	}
}

func TestFieldsOfOperators(t *testing.T) {
	p, err := NewProvider("acme", Custom{
		Header: "X-Sig", Type: []string{"{header:x-event}", "{body:object}.{body:action}", "thing"},
		ID: []string{"{body:meta.id}:{body:meta.n}", "{body:meta.id}", "{header:X-Id}"}, Subject: []string{"{body:customer}"}, Keep: []string{"X-Acme-*"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		header        http.Header
		body          string
		kind, id, key string
	}{
		{http.Header{"X-Event": {"a"}, "X-Id": {"h"}}, `{"object":"b","meta":{"id":"m"}}`, "a", "m", ""},
		{http.Header{"X-Id": {"h"}}, `{"object":"b","action":"c","customer":{"id":9}}`, "b.c", "h", "9"},
		{nil, `{"object":"b","customer":"x"}`, "b", "", "x"},
		{nil, `{"action":"c"}`, "thing", "", ""},
		{nil, `{"meta":{"id":"m","n":7}}`, "thing", "m:7", ""},
		{nil, `{"meta":{"n":7}}`, "thing", "", ""},
		{nil, `[]`, "thing", "", ""},
	} {
		r, err := p.read(c.header, document{json: []byte(c.body)})
		if err != nil || r.kind != c.kind || r.id != c.id || r.key != c.key {
			t.Errorf("%s: %+v, %v", c.body, r, err)
		}
	}
	kept, err := kept(p, http.Header{"X-Acme-Y": {"1"}, "X-Sig": {"2"}, "X-Event": {"3"}, "X-Other": {"4"}, "Authorization": {"5"}})
	if err != nil || len(kept) != 3 {
		t.Errorf("recorded: %v, %v", kept, err)
	}
}

func TestRowsThatOperatorsCantWrite(t *testing.T) {
	for field, rows := range map[string][]Custom{
		"":               {{Header: "X", Layout: "pairs"}, {Header: "X", Layout: "tagged"}},
		"algorithm":      {{Header: "X", Algorithm: "md5"}, {Header: "X", Algorithm: "jwt"}},
		"header":         {{}, {Header: "X Y"}, {Header: "X:"}},
		"encoding":       {{Header: "X", Encoding: "base32"}},
		"key":            {{Header: "X", Key: "raw"}, {Header: "X", Algorithm: "ed25519", Key: "hex"}},
		"layout":         {{Header: "X", Layout: "xml"}},
		"label":          {{Header: "X", Label: "v1"}},
		"prefix":         {{Header: "X", Layout: "list", Prefix: "p"}},
		"timestamp":      {{Header: "X", Timestamp: CustomTime{Header: "T"}}, {Header: "X", Timestamp: CustomTime{Header: "T"}, Message: "{body}"}},
		"timestamp.unit": {{Header: "X", Message: "{timestamp}", Timestamp: CustomTime{Header: "T", Unit: "days"}}},
		"message": {
			{Header: "X", Message: "{"}, {Header: "X", Message: "}"}, {Header: "X", Message: "{body:x}"}, {Header: "X", Message: "{header:}"},
			{Header: "X", Message: "{header:a b}"}, {Header: "X", Message: "{timestamp}"}, {Header: "X", Algorithm: "token", Message: "{body}"},
		},
		"type":          {{Header: "X", Type: []string{""}}, {Header: "X", Type: []string{"a{body:b}"}}, {Header: "X", Type: []string{"{body:a}.{body:b}-{body:c}"}}},
		"id":            {{Header: "X", ID: []string{"{json:a}"}}},
		"subject":       {{Header: "X", Subject: []string{"{header:}"}}},
		"content_types": {{Header: "X", ContentTypes: []string{"json"}}},
		"max_body":      {{Header: "X", MaxBody: -1}},
	} {
		for i, row := range rows {
			_, err := NewProvider("acme", row)
			e, ok := errors.AsType[*domain.Error](err)
			if !ok || e.Class != domain.Invalid || e.Field != field {
				t.Errorf("%s %d: %v", field, i, err)
			}
		}
	}
	for _, name := range []string{"", "github", "a b", "/"} {
		if _, err := NewProvider(name, Custom{Header: "X"}); err == nil {
			t.Errorf("a row is called %q", name)
		}
	}
}

// A row that verifies nothing is of no use to a source that doesn't say so as well.
func TestARowWithoutSignatures(t *testing.T) {
	row, err := NewProvider("acme", Custom{Algorithm: "none"})
	if err != nil || row.Binding != Unverified || row.Verification != "acme; none" {
		t.Fatalf("%+v, %v", row, err)
	}
	source := Source{Name: "acme", Provider: "acme", Row: &row, Secrets: Keys(Secret("s"))}
	n := newNode(t, nil)
	if err := n.handler.Reload([]Source{source}); err == nil || !strings.Contains(err.Error(), "nothing of acme is verified") {
		t.Errorf("%v", err)
	}
	source.Secrets, source.Unverified = nil, true
	if err := n.handler.Reload([]Source{source}); err != nil {
		t.Error(err)
	}
	other := row
	source.Provider, source.Row = "other", &other
	if err := n.handler.Reload([]Source{source}); err == nil {
		t.Error("a row under another name")
	}
}
