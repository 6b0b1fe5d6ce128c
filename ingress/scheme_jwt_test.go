package ingress

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// tokenOf makes a token of JSON that a test wrote, signed as the algorithm says.
func tokenOf(t *testing.T, a TokenAlgorithm, secret Secret, head, claims string) string {
	t.Helper()
	raw := base64.RawURLEncoding.EncodeToString
	input := raw([]byte(head)) + "." + raw([]byte(claims))
	var sig []byte
	var err error
	switch a {
	case HS256:
		sig, err = a.sign(secret, nil, input)
	case RS256:
		sig, err = a.sign(nil, sharedKeys().rsa, input)
	case ES256:
		sig, err = a.sign(nil, sharedKeys().ecdsa, input)
	}
	if err != nil {
		t.Fatal(err)
	}
	return input + "." + raw(sig)
}

func TestTokensOfMessageBird(t *testing.T) {
	p, _ := ProviderNamed("messagebird")
	secret := Secret("secret")
	r := Request{Method: "POST", URL: publicBase + "/hooks/messagebird?a=1", Header: http.Header{}, Body: []byte(`{"type":"x"}`)}
	const head = `{"alg":"HS256","typ":"JWT"}`
	claims := func(nbf, exp int64, more string) string {
		return fmt.Sprintf(`{"iss":"MessageBird","nbf":%d,"exp":%d,"url_hash":%q,"payload_hash":%q%s}`,
			nbf, exp, hexSHA256([]byte(r.URL)), hexSHA256(r.Body), more)
	}
	at := signedAt.Unix()
	good := claims(at, at+60, "")
	for name, c := range map[string]struct {
		token string
		want  Reason
	}{
		"good":               {tokenOf(t, HS256, secret, head, good), ""},
		"a fraction":         {tokenOf(t, HS256, secret, head, strings.Replace(good, `"nbf":`+fmt.Sprint(at), `"nbf":`+fmt.Sprint(at)+".5", 1)), ""},
		"other secret":       {tokenOf(t, HS256, Secret("other"), head, good), WrongSignature},
		"none":               {tokenOf(t, HS256, secret, `{"alg":"none"}`, good), Malformed},
		"none, unsigned":     {strings.TrimRight(tokenOf(t, HS256, secret, `{"alg":"none"}`, good), "-_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"), Malformed},
		"another algorithm":  {tokenOf(t, HS256, secret, `{"alg":"HS512"}`, good), Malformed},
		"lower case":         {tokenOf(t, HS256, secret, `{"alg":"hs256"}`, good), Malformed},
		"critical":           {tokenOf(t, HS256, secret, `{"alg":"HS256","crit":["exp"]}`, good), Malformed},
		"two algorithms":     {tokenOf(t, HS256, secret, `{"alg":"HS256","alg":"HS256"}`, good), Malformed},
		"a head of no JSON":  {tokenOf(t, HS256, secret, `x`, good), Malformed},
		"claims of no JSON":  {tokenOf(t, HS256, secret, head, `x`), Malformed},
		"two hashes":         {tokenOf(t, HS256, secret, head, claims(at, at+60, `,"payload_hash":"x"`)), Malformed},
		"two parts":          {"a.b", Malformed},
		"four parts":         {tokenOf(t, HS256, secret, head, good) + ".x", Malformed},
		"padded":             {tokenOf(t, HS256, secret, head, good) + "=", Malformed},
		"too long":           {strings.Repeat("a", maxSignatureHeader+1), Malformed},
		"another issuer":     {tokenOf(t, HS256, secret, head, strings.Replace(good, "MessageBird", "Messagebird", 1)), WrongSignature},
		"no issuer":          {tokenOf(t, HS256, secret, head, strings.Replace(good, `"iss":"MessageBird",`, "", 1)), WrongSignature},
		"another body":       {tokenOf(t, HS256, secret, head, strings.Replace(good, hexSHA256(r.Body), hexSHA256(nil), 1)), WrongSignature},
		"no body":            {tokenOf(t, HS256, secret, head, strings.Replace(good, "payload_hash", "payload", 1)), MissingHeader},
		"another URL":        {tokenOf(t, HS256, secret, head, strings.Replace(good, hexSHA256([]byte(r.URL)), hexSHA256([]byte(publicBase)), 1)), WrongSignature},
		"expired":            {tokenOf(t, HS256, secret, head, claims(at-300, at-61, "")), TooOld},
		"just not expired":   {tokenOf(t, HS256, secret, head, claims(at-300, at-60, "")), ""},
		"not yet":            {tokenOf(t, HS256, secret, head, claims(at+61, at+300, "")), TooNew},
		"expiry is a string": {tokenOf(t, HS256, secret, head, strings.Replace(good, `"exp":`+fmt.Sprint(at+60), `"exp":"never"`, 1)), Malformed},
		"no expiry":          {tokenOf(t, HS256, secret, head, strings.Replace(good, `"exp":`+fmt.Sprint(at+60)+`,`, "", 1)), Malformed},
		"nbf is a string":    {tokenOf(t, HS256, secret, head, strings.Replace(good, `"nbf":`+fmt.Sprint(at), `"nbf":"x"`, 1)), Malformed},
	} {
		r.Header.Set("Messagebird-Signature-Jwt", c.token)
		if err := p.Scheme.Verify(t.Context(), &r, Keys(Secret("old"), secret), signedAt); reasonOf(err) != c.want || (err == nil) != (c.want == "") {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	// Without a body there is no hash of one.
	r.Body = nil
	r.Header.Set("Messagebird-Signature-Jwt", tokenOf(t, HS256, secret, head, strings.Replace(claims(at, at+60, ""), "payload_hash", "payload", 1)))
	if err := p.Scheme.Verify(t.Context(), &r, Keys(secret), signedAt); err != nil {
		t.Errorf("without a body: %v", err)
	}
}

// A token that is signed with the public key as if that were a secret is the classic way in.
func TestAPublicKeyIsNoSecret(t *testing.T) {
	v := newVendors(t)
	p, _ := ProviderNamed("kinde")
	public := Secret(publicPEM(v.rsa))
	for _, alg := range []string{"HS256", "RS256", "none"} {
		head := fmt.Sprintf(`{"alg":%q,"kid":%q}`, alg, sampleKeyID)
		r := Request{Method: "POST", Header: http.Header{}, Body: []byte(tokenOf(t, HS256, public, head, `{"type":"user.created"}`)), Vendor: v.keys()}
		if err := p.Scheme.Verify(t.Context(), &r, Keys(secretOf("kinde")), signedAt); err == nil {
			t.Errorf("%s: accepted", alg)
		}
	}
}

func TestTokensOfPlaidAgeByIat(t *testing.T) {
	v := newVendors(t)
	p, _ := ProviderNamed("plaid")
	keys := v.keys()
	head := fmt.Sprintf(`{"alg":"ES256","kid":%q}`, sampleKeyID)
	for name, c := range map[string]struct {
		head, iat string
		want      Reason
	}{
		"now":             {head, fmt.Sprint(signedAt.Unix()), ""},
		"5 minutes old":   {head, fmt.Sprint(signedAt.Add(-5 * time.Minute).Unix()), ""},
		"older":           {head, fmt.Sprint(signedAt.Add(-5*time.Minute - time.Second).Unix()), TooOld},
		"from the future": {head, fmt.Sprint(signedAt.Add(5*time.Minute + time.Second).Unix()), TooNew},
		"negative":        {head, "-1", Malformed},
		"no number":       {head, `"x"`, Malformed},
		"no kid":          {`{"alg":"ES256"}`, fmt.Sprint(signedAt.Unix()), UntrustedKey},
		"a path for kid":  {`{"alg":"ES256","kid":"../../item/get"}`, fmt.Sprint(signedAt.Unix()), UntrustedKey},
	} {
		r := Request{Method: "POST", Header: http.Header{}, Body: []byte(`{}`), Vendor: keys}
		r.Header.Set("Plaid-Verification", tokenOf(t, ES256, nil, c.head, `{"iat":`+c.iat+`,"request_body_sha256":"`+hexSHA256(r.Body)+`"}`))
		if err := p.Scheme.Verify(t.Context(), &r, Keys(secretOf("plaid")), signedAt); reasonOf(err) != c.want || (err == nil) != (c.want == "") {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// The examples of Atlassian's page, and what follows from its rules.
func TestQueryHashes(t *testing.T) {
	hash := func(method, address string) string {
		p, _ := ProviderNamed("atlassian-connect")
		one := pass{s: &p.Scheme, r: &Request{Method: method, URL: address}}
		if err := one.open(); err != nil {
			t.Fatal(err)
		}
		return one.queryHash()
	}
	for address, want := range map[string]string{
		"https://a.example":                        "GET&/&",
		"https://a.example/":                       "GET&/&",
		"https://a.example/a/":                     "GET&/a&",
		"https://a.example/a&b":                    "GET&/a%26b&",
		"https://a.example/a?b=2&a=1":              "GET&/a&a=1&b=2",
		"https://a.example/a?x=2&x=1":              "GET&/a&x=1,2",
		"https://a.example/a?x=a+b&y=a%20b&z=%7E*": "GET&/a&x=a%20b&y=a%20b&z=~%2A",
		"https://a.example/a?jwt=x.y.z&b=1":        "GET&/a&b=1",
		"https://a.example/a?b=&c":                 "GET&/a&b=&c=",
	} {
		if got := hash("get", address); got != hexSHA256([]byte(want)) {
			t.Errorf("%s is not hashed as %s", address, want)
		}
	}
	p, _ := ProviderNamed("atlassian-connect")
	r := Request{Method: "POST", URL: publicBase + "/hooks/a", Header: http.Header{}}
	claims := fmt.Sprintf(`{"exp":%d,"qsh":"context-qsh"}`, signedAt.Unix()+60)
	r.Header.Set("Authorization", "JWT "+tokenOf(t, HS256, Secret("s"), `{"alg":"HS256"}`, claims))
	if err := p.Scheme.Verify(t.Context(), &r, Keys(Secret("s")), signedAt); reasonOf(err) != WrongSignature {
		t.Errorf("a token for browsers: %v", err)
	}
}
