package ingress

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// settle waits until no fetch is in hand.
func settle(v *VendorKeys) {
	for {
		var busy chan struct{}
		v.mu.Lock()
		for _, e := range v.known {
			if e.busy != nil {
				busy = e.busy
			}
		}
		v.mu.Unlock()
		if busy == nil {
			return
		}
		<-busy
	}
}

// eBayOfItsOwn is eBay's row with access tokens of its own.
func eBayOfItsOwn() Provider {
	p, _ := ProviderNamed("ebay")
	p.Scheme.Vendor = (&eBayKeys{host: "api.ebay.com"}).find
	return p
}

// credentialed are rows whose keys are asked for with credentials.
func credentialed() []Provider {
	plaid, _ := ProviderNamed("plaid")
	return []Provider{plaid, eBayOfItsOwn()}
}

// refusing answers requests with the credentials "id:old" with the status given, all others as providers do.
func (v *vendors) refusing(t *testing.T, status int) {
	v.answer = func(w http.ResponseWriter, r *http.Request) bool {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		_, password, _ := r.BasicAuth()
		if password != "old" && !bytes.Contains(body, []byte(`"secret":"old"`)) {
			return false
		}
		w.WriteHeader(status)
		return true
	}
}

// While credentials are rotated the source has both, and the provider refuses one of them.
func TestRefusedCredentialsDontHideOthers(t *testing.T) {
	for _, status := range []int{400, 401, 403, 404, 410, 500} {
		for _, p := range credentialed() {
			v := newVendors(t)
			v.refusing(t, status)
			r := sample(t, p, signedAt)
			old, current := Secret("id:old"), secretOf(p.Name)
			for order, secrets := range map[string][]Secret{"first": {old, current}, "last": {current, old}} {
				r.Vendor = v.keys()
				if err := p.Scheme.Verify(t.Context(), &r, Keys(secrets...), signedAt); err != nil {
					t.Errorf("%s, %d for the old ones, the old ones %s: %v", p.Name, status, order, err)
				}
			}
			// Alone they are no verdict on the request: not even 404, of an address that is the same for all keys.
			r.Vendor = v.keys()
			if err := p.Scheme.Verify(t.Context(), &r, Keys(old), signedAt); statusOf(err) != 503 || strings.Contains(err.Error(), "id:old") {
				t.Errorf("%s, %d: %v", p.Name, status, err)
			}
		}
	}
}

// What was answered to a password that has been replaced is not held against the new one.
func TestNewCredentialsAreAskedWithAtOnce(t *testing.T) {
	for _, p := range credentialed() {
		v := newVendors(t)
		v.refusing(t, 401)
		keys := v.keys()
		keys.now = newHands(signedAt).now // it stands still
		r := sample(t, p, signedAt)
		r.Vendor = keys
		verify := func(s Secret) error { return p.Scheme.Verify(t.Context(), &r, Keys(s), signedAt) }
		if err := verify(Secret("id:old")); statusOf(err) != 503 {
			t.Errorf("%s: the old ones: %v", p.Name, err)
		}
		if err := verify(Secret("id:new")); err != nil {
			t.Errorf("%s: the new ones: %v", p.Name, err)
		}
		if err := verify(Secret("id:old")); statusOf(err) != 503 {
			t.Errorf("%s: the old ones, after the new ones: %v", p.Name, err)
		}
		for name := range keys.known {
			if strings.Contains(name, "old") || strings.Contains(name, "new") {
				t.Errorf("%s: the credentials are in %q", p.Name, name)
			}
		}
	}
}

// Of two issuers one can be down, or not know the key, without harm to the deliveries of the other.
func TestOneIssuerDoesntHideAnother(t *testing.T) {
	p, _ := ProviderNamed("kinde")
	v := newVendors(t)
	v.answer = func(w http.ResponseWriter, r *http.Request) bool {
		switch r.Host {
		case "down.example.com":
			w.WriteHeader(500)
		case "gone.example.com":
			w.WriteHeader(404)
		default:
			return false
		}
		return true
	}
	down, gone, own := Secret("https://down.example.com"), Secret("https://gone.example.com"), secretOf("kinde")
	right := sample(t, p, signedAt)
	wrong := right.clone()
	if at := bytes.LastIndexByte(wrong.Body, '.') + 10; wrong.Body[at] == 'A' { // within the signature
		wrong.Body[at] = 'B'
	} else {
		wrong.Body[at] = 'A'
	}
	for _, c := range []struct {
		name    string
		request Request
		issuers []Secret
		status  int
		reason  Reason
	}{
		{"down, right", right, []Secret{down, own}, 0, ""},
		{"right, down", right, []Secret{own, down}, 0, ""},
		{"gone, right", right, []Secret{gone, own}, 0, ""},
		{"right, gone", right, []Secret{own, gone}, 0, ""},
		{"all three", right, []Secret{gone, down, own}, 0, ""},
		{"gone, down", right, []Secret{gone, down}, 503, ""},
		{"down, gone", right, []Secret{down, gone}, 503, ""},
		{"gone", right, []Secret{gone}, 401, UntrustedKey},
		{"wrong, down", wrong, []Secret{own, down}, 503, ""}, // it may be signed by the one that is down
		{"down, wrong", wrong, []Secret{down, own}, 503, ""},
		{"wrong, gone", wrong, []Secret{own, gone}, 401, UntrustedKey},
		{"wrong", wrong, []Secret{own}, 401, WrongSignature},
	} {
		c.request.Vendor = v.keys()
		err := p.Scheme.Verify(t.Context(), &c.request, Keys(c.issuers...), signedAt)
		if statusOf(err) != c.status || c.reason != "" && reasonOf(err) != c.reason {
			t.Errorf("%s: %v, want %d %s", c.name, err, c.status, c.reason)
		}
	}
}

// A stray refusal takes no key away that is known, for two days; only the news that there is none does.
func TestARefusalTakesNoKeyAway(t *testing.T) {
	kinde, _ := ProviderNamed("kinde")
	for _, p := range append(credentialed(), kinde) {
		for _, status := range []int{400, 401, 403, 405, 451} {
			v := newVendors(t)
			keys, clock := v.keys(), newHands(signedAt)
			keys.now = clock.now
			r := sample(t, p, signedAt)
			r.Vendor = keys
			if err := p.Scheme.Verify(t.Context(), &r, Keys(secretOf(p.Name)), signedAt); err != nil {
				t.Fatal(err)
			}
			v.answers(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
			before := v.asked.Load()
			for _, c := range []struct {
				after time.Duration
				want  int
			}{{13 * time.Hour, 0}, {14 * time.Hour, 0}, {47 * time.Hour, 0}, {49 * time.Hour, 503}} {
				clock.set(signedAt.Add(c.after))
				for range 2 { // the first has it asked for again, the second finds the answer
					if err := p.Scheme.Verify(t.Context(), &r, Keys(secretOf(p.Name)), signedAt); statusOf(err) != c.want {
						t.Errorf("%s, %d after %v: %v", p.Name, status, c.after, err)
					}
					settle(keys)
				}
			}
			if v.asked.Load() == before {
				t.Errorf("%s, %d: it was not asked for again", p.Name, status)
			}
		}
	}
	for _, status := range []int{404, 410} {
		v := newVendors(t)
		keys, clock := v.keys(), newHands(signedAt)
		keys.now = clock.now
		r := sample(t, kinde, signedAt)
		r.Vendor = keys
		verify := func() error { return kinde.Scheme.Verify(t.Context(), &r, Keys(secretOf("kinde")), signedAt) }
		if err := verify(); err != nil {
			t.Fatal(err)
		}
		v.answers(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
		clock.forward(13 * time.Hour)
		verify()
		settle(keys)
		if err := verify(); reasonOf(err) != UntrustedKey {
			t.Errorf("%d: %v", status, err)
		}
	}
}

// An access token that eBay takes back before its time is not used again.
func TestARefusedAccessTokenIsReplaced(t *testing.T) {
	for status, want := range map[int]int64{401: 2, 403: 1} {
		v := newVendors(t)
		var tokens, looked atomic.Int64
		v.answer = func(w http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, "/token") {
				tokens.Add(1)
			} else if looked.Add(1) == 1 {
				w.WriteHeader(status)
				return true
			}
			return false
		}
		p := eBayOfItsOwn()
		keys, clock := v.keys(), newHands(signedAt)
		keys.now = clock.now
		r := sample(t, p, signedAt)
		r.Vendor = keys
		verify := func() error { return p.Scheme.Verify(t.Context(), &r, Keys(secretOf("ebay")), signedAt) }
		if err := verify(); statusOf(err) != 503 {
			t.Errorf("%d: %v", status, err)
		}
		clock.forward(vendorRetry)
		if err := verify(); err != nil {
			t.Errorf("%d, the next time: %v", status, err)
		}
		if n := tokens.Load(); n != want {
			t.Errorf("%d: %d access tokens were asked for, want %d", status, n, want)
		}
	}
}

// A token that was given since is not forgotten with the one that is refused.
func TestOnlyTheRefusedAccessTokenIsDropped(t *testing.T) {
	e := &eBayKeys{token: "newer", of: "x", until: signedAt}
	if e.drop("older"); e.token != "newer" {
		t.Error("the newer one is gone")
	}
	if e.drop("newer"); e.token != "" || e.of != "" || !e.until.IsZero() {
		t.Error("the refused one is still there")
	}
}
