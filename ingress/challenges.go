package ingress

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// handshake is how a provider finds out whether a URL wants its webhooks: it sends a challenge and expects an answer.
// The rows stand in challenges_rows.go.
//
// Whoever answers the challenges of strangers can be used: to show a browser a script, to fetch a URL, and above all
// to make signatures. Zoom and X want back a MAC of the challenge under the key that signs their webhooks, so an open
// door that computes it for any text signs any webhook for anybody. Hence the rules here: what the provider has signed
// is checked first; what nobody signs is answered only while the operator expects it, or says so for good; a challenge
// is short and of an alphabet in which no signed message can be written; answers are counted and recorded.
type handshake struct {
	name    string // as the provider calls it
	docs    string
	method  string // of the request
	when    []mark // that tell it from a delivery; all must be there
	token   mark   // where the challenge stands; of kind nowhere for a handshake without one
	letters string // what a challenge consists of
	max     int    // bytes of a challenge; maxChallenge by default
	proof   proof
	// needs is what the source must be configured with for the answer.
	needs need
	// optIn says that the answer does something, so that it is given only while the source is armed, although the
	// challenge is signed. Unasked for it is a delivery like any other.
	optIn bool
	// learns says that the challenge is the secret of later deliveries. It is kept, and the window closed behind it.
	learns bool
	// signs returns what a delivery's signature is over, where a challenge's answer is a signature under the same key.
	// A delivery that could be a challenge is refused even if its signature is right: nobody knows who asked for it.
	signs  func(body []byte) []byte
	answer func(context.Context, *Handler, asked) (reply, error)
}

// mark is a value that a request has at some place.
type mark struct {
	in   region
	name string // of the parameter or header, or the path in the body
	is   string // the value it must have; empty for any
}

// region is a part of a request.
type region int

const (
	nowhere region = iota
	inQuery
	inHeader // the name is in canonical form
	inBody   // JSON
)

// proof is what shows that the provider asks, and not somebody else.
type proof string

const (
	bySignature proof = "signature"           // as of any delivery
	byToken     proof = "verify token"        // that the operator gave the provider
	byWindow    proof = "window"              // nothing does: only while the source is armed
	byEither    proof = "signature or window" // if it is signed the signature counts, else the window
)

// need is what an answer is made of besides the challenge.
type need int

const (
	needsNothing     need = 0
	needsVerifyToken need = 1 << iota
	needsPublicURL
	needsSecret
)

// asked is a challenge that is to be answered.
type asked struct {
	*incoming
	token string
	body  []byte
}

// maxChallenge bounds a challenge in bytes; Slack's have about 52.
const maxChallenge = 256

// The alphabets of challenges. None has a colon, a quote, a brace or white space.
const (
	hexLetters  = "0123456789abcdef"
	wordLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.="
	// textLetters is for Graph, which signs nothing and sends words. No markup can be written in it.
	textLetters = wordLetters + " :,;+/@()!"
)

// admits says whether text can be a challenge of this handshake. JSON is none, not even a number or a word: X signs the
// body alone, and a body can be a number.
func (s handshake) admits(text string) bool {
	return text != "" && len(text) <= first(s.max, maxChallenge) && strings.Trim(text, s.letters) == "" &&
		(s.signs == nil || !json.Valid([]byte(text)))
}

// early returns the handshake that a request is by what stands before its body.
func (rt *route) early(r *http.Request) (s handshake, found bool) {
	for _, s := range rt.provider.handshakes() {
		if s.method == r.Method && !s.inBody() && s.marked(r, nil) && s.token.there(r) {
			return s, true
		}
	}
	return handshake{}, false
}

// late returns the handshake that a request with this body is.
func (rt *route) late(r *http.Request, body []byte) (s handshake, found bool) {
	if len(body) > maxHandshakeBody {
		return handshake{}, false
	}
	for _, s := range rt.provider.handshakes() {
		if s.method == r.Method && s.inBody() && s.marked(r, body) {
			return s, true
		}
	}
	return handshake{}, false
}

// inBody says that the body has to be read to know the handshake.
func (s handshake) inBody() bool {
	return s.token.in == inBody || slices.ContainsFunc(s.when, func(m mark) bool { return m.in == inBody })
}

// maxHandshakeBody bounds the body of a handshake, so that looking for one costs large deliveries nothing.
const maxHandshakeBody = 16 << 10

// marked says whether all marks are there. With several of the same name the first counts, as in the answer.
func (s handshake) marked(r *http.Request, body []byte) bool {
	for _, m := range s.when {
		if m.in != inBody && (!m.there(r) || m.is != "" && m.value(r) != m.is) {
			return false
		}
	}
	for _, m := range s.when {
		if m.in != inBody {
			continue
		}
		// Most deliveries can be told from a handshake without looking closer; one that hides a name behind an escape is
		// a delivery like any other.
		if m.is != "" && !bytes.Contains(body, []byte(m.is)) {
			return false
		}
		if text, there := fieldOf(body, m.name); !there || m.is != "" && text != m.is {
			return false
		}
	}
	return true
}

func (m mark) there(r *http.Request) bool {
	switch m.in {
	case inQuery:
		return strings.Contains(r.URL.RawQuery, m.name) && r.URL.Query().Has(m.name)
	case inHeader:
		return len(r.Header[m.name]) > 0
	}
	return true
}

func (m mark) value(r *http.Request) string {
	switch m.in {
	case inQuery:
		return r.URL.Query().Get(m.name)
	case inHeader:
		return r.Header[m.name][0]
	}
	return ""
}

// fieldOf returns the string or number at a path of a body that is JSON, and whether there is one.
func fieldOf(body []byte, path string) (string, bool) {
	found, err := wanted(path).find(body)
	if err != nil {
		return "", false
	}
	if text := found.text(path); text != "" {
		return text, true
	}
	digits := found.digits(path)
	return digits, digits != ""
}

// greet answers a request that is a handshake by what stands before its body. ok is false for all others.
func (h *Handler) greet(in *incoming) (answer reply, ok bool, err error) {
	s, found := in.route.early(in.Request)
	if !found {
		return reply{}, false, nil
	}
	a := asked{incoming: in, token: s.token.value(in.Request)}
	how := s.proof
	switch s.proof {
	case bySignature:
		err = h.verify(in.route, in.Request, nil, in.at)
	case byEither:
		err = h.verify(in.route, in.Request, nil, in.at)
		if f, isFailure := errors.AsType[*Failure](err); isFailure && f.Reason == MissingHeader {
			how, err = byWindow, nil
		}
	}
	if err == nil {
		answer, err = h.shake(s, in.route.shown(how), a)
	}
	return answer, true, err
}

// shown is what a proof is worth to the source: where nothing is verified, a signature that was accepted shows nothing.
func (rt *route) shown(how proof) proof {
	if rt.provider.Binding == Unverified && (how == bySignature || how == byEither) {
		return byWindow
	}
	return how
}

// greetBody does the same for what a body says. failed is what the signature's check has said; a request that is not
// signed at all may still be a handshake.
func (h *Handler) greetBody(in *incoming, body []byte, failed error) (answer reply, ok bool, err error) {
	s, found := in.route.late(in.Request, body)
	if !found {
		return reply{}, false, nil
	}
	how := bySignature
	if s.optIn && !h.shakes.open(in.route.source, in.at) {
		return reply{}, false, nil
	}
	if failed != nil {
		f, isFailure := errors.AsType[*Failure](failed)
		// Whoever teaches the secret can't have signed with it in a way that could be checked.
		unsigned := isFailure && (f.Reason == MissingHeader || s.learns)
		if s.proof == bySignature || !unsigned {
			return reply{}, false, nil
		}
		how = byWindow
	}
	a := asked{incoming: in, body: body}
	if s.token.in == inBody {
		a.token, _ = fieldOf(body, s.token.name)
	}
	answer, err = h.shake(s, in.route.shown(how), a)
	return answer, true, err
}

// couldBeAnswer refuses a delivery whose signature is right and may be one of our own answers.
func (rt *route) couldBeAnswer(body []byte) error {
	for _, s := range rt.provider.handshakes() {
		if s.signs != nil && s.admits(string(s.signs(body))) {
			return failf(WrongSignature, "what is signed could be a challenge of %s, so that its signature proves nothing", s.name)
		}
	}
	return nil
}

// shake records a handshake and answers it. how is what has shown that the provider asks; a window and a verify token
// are looked at here.
func (h *Handler) shake(s handshake, how proof, a asked) (reply, error) {
	if err := h.mayShake(s, how, a); err != nil {
		h.shakes.count(a.route.source.Name, err)
		return reply{}, err
	}
	durability, err := h.recordShake(s, how, a)
	if err != nil {
		h.shakes.count(a.route.source.Name, err)
		return reply{}, err
	}
	answer := reply{status: http.StatusOK}
	if s.learns {
		err = h.learn(a.route, Secret(a.token), a.at)
	}
	if err == nil && s.answer != nil {
		answer, err = s.answer(a.Context(), h, a)
	}
	h.shakes.count(a.route.source.Name, err)
	answer.durability = durability
	return answer, err
}

// mayShake refuses what must not be answered. Nothing about the challenge is looked at before it is known that somebody
// is waiting for it, so that a stranger learns no more than that nobody is.
func (h *Handler) mayShake(s handshake, how proof, a asked) error {
	source := a.route.source
	switch {
	case source.Handshake == HandshakeOff:
		return refuse(403, "handshake-off", "The source answers no handshakes", "handshake is off for this source")
	case how == byToken:
		sent := a.URL.Query().Get("hub.verify_token")
		if len(source.VerifyToken) == 0 || !equal([]byte(sent), source.VerifyToken) {
			return refuse(403, "wrong-verify-token", "The verify token was not accepted", "it is not the verify_token of this source")
		}
	case how == byWindow && !s.harmless() && !h.shakes.open(source, a.at):
		return refuse(403, "handshake-not-armed", "The source is not waiting for a handshake",
			"have it wait for one first: penstock sources arm %s", source.Name)
	}
	if s.token.in != nowhere && !s.admits(a.token) {
		return domain.Invalidf(s.token.name, "a challenge is 1 to %d characters of those that %s uses", first(s.max, maxChallenge), a.route.provider.Name)
	}
	if how != bySignature {
		if wait := h.shakes.spend(source.Name, clientOf(a.remote), a.at); wait > 0 {
			p := refuse(429, "too-many-handshakes", "Too many handshakes", "this source answers %d a minute", shakesPerMinute)
			p.retry = wait
			return p
		}
	}
	switch {
	case s.needs&needsVerifyToken != 0 && len(source.VerifyToken) == 0:
		return notConfigured("verify_token")
	case s.needs&needsPublicURL != 0 && source.PublicURL == "":
		return notConfigured("public_url")
	case s.needs&needsSecret != 0 && a.route.secret(a.at) == nil:
		return notConfigured("secrets")
	}
	return nil
}

// harmless says that the answer tells nobody anything: no challenge, and nothing computed.
func (s handshake) harmless() bool { return s.token.in == nowhere }

func notConfigured(key string) error {
	return refuse(403, "handshake-not-configured", "The handshake can't be answered", "%s is not set for this source", key)
}

// recordShake writes that a handshake is answered, without the challenge and its answer.
func (h *Handler) recordShake(s handshake, how proof, a asked) (Durability, error) {
	rt := a.route
	kind, err := typeName(rt.provider.Name, "handshake")
	if err != nil {
		return "", err
	}
	stream, err := domain.NewStream(rt.source.Name, "handshake")
	if err != nil {
		return "", err
	}
	if how == byWindow && rt.source.Handshake == HandshakeAlways {
		how = "always"
	}
	body, err := json.Marshal(struct {
		Handshake string `json:"handshake"`
		Proof     proof  `json:"proof"`
		Method    string `json:"method"`
		Remote    string `json:"remote,omitempty"`
		UserAgent string `json:"user_agent,omitempty"`
		Docs      string `json:"docs"`
	}{s.name, how, a.Method, remoteText(a.remote), strings.ToValidUTF8(cut(a.UserAgent(), 200), ""), s.docs})
	if err != nil {
		return "", fmt.Errorf("record a handshake: %w", err)
	}
	id := "handshake-" + rand.Text() // also the same challenge is asked, and answered, anew each time
	if how == bySignature {
		// Whoever has seen a signed one can send it again as long as its time counts. It is no other one by that.
		sum := sha256.New()
		for _, part := range []string{a.token, a.Header.Get(rt.provider.Scheme.Header), string(a.body)} {
			fmt.Fprintf(sum, "%d:%s", len(part), part)
		}
		id = "handshake-" + hex.EncodeToString(sum.Sum(nil)[:16])
	}
	verification := rt.provider.Name + "; handshake; " + string(how)
	return h.store(a.Context(), eventstore.Entry{
		Kind: eventstore.KindDelivery, ID: id, Source: rt.source.Name, Type: kind, Stream: stream, Received: a.at,
		ContentType: jsonType, Verification: verification, Correlation: id, Body: body,
	})
}

func remoteText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func cut(s string, max int) string { return s[:min(len(s), max)] }
