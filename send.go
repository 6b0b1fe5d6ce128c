package penstock

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/penstock-io/penstock/ingress"
	"github.com/spf13/cobra"
)

// sender is the send command: deliveries as a provider would make them.
type sender struct {
	remote
	source, provider, kind string
	to, public, secret     string
	config                 string // file
	data, contentType      string
	count                  int
	forge                  bool
	facts                  ingress.Facts
	in                     io.Reader
}

const (
	sendPatience = 10 * time.Second
	sendAnswer   = 64 << 10  // bytes of an answer that are shown
	sendData     = 100 << 20 // bytes of a body
)

func sendCommand() *cobra.Command {
	s := &sender{}
	cmd := &cobra.Command{
		Use: "send SOURCE|TYPE", Short: "Send a correctly signed delivery, as any provider would", Args: cobra.MaximumNArgs(1),
		Long: "Send a correctly signed delivery, as any provider would, and print the answer.\n\n" +
			"SOURCE is a source of the node; what provider it has, the node is asked. Of TYPE, as stripe.charge.succeeded, the\n" +
			"source is by default called like the provider. For a provider that signs with a key of its own, --secret is a\n" +
			"private key in PEM, whose public one the source must have. penstock sources providers NAME lists the types of a\n" +
			"provider's samples; those that further flags change are:\n  " + strings.Join(sampleTypes("github", "stripe", "slack"), "\n  "),
		Example: "  penstock send stripe.charge.succeeded --customer cus_9 --amount 4200\n" +
			"  penstock send shop --secret env:SHOP_SECRET --data @order.json\n" +
			"  penstock send --provider zoom --to https://hooks.example.com/hooks/zoom --secret env:ZOOM_SECRET --forge",
		RunE: func(cmd *cobra.Command, args []string) error {
			s.out, s.in = cmd.OutOrStdout(), cmd.InOrStdin()
			switch {
			case len(args) == 0:
			case slices.Contains(sampleTypes(), args[0]):
				s.kind = args[0]
			case s.source != "":
				return fmt.Errorf("there is no sample of type %q", args[0])
			default:
				s.source = args[0]
			}
			return s.run(cmd.Context())
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&s.url, "url", "http://127.0.0.1:8080", "base URL of the node")
	fl.StringVar(&s.token, "token", "", "reference to a bearer token, to ask the node for the source's provider")
	fl.StringVarP(&s.config, "config", "c", "", "configuration file, for the source's provider, secret and public_url, and for providers of your own")
	fl.StringVar(&s.to, "to", "", "URL to send to, instead of that of the source")
	fl.StringVar(&s.public, "public-url", "", "the source's public_url, for providers that sign it; by default the URL that is sent to")
	fl.StringVar(&s.provider, "provider", "", "provider, instead of the source's")
	fl.StringVar(&s.kind, "type", "", "type of the event; by default the provider's plainest sample")
	fl.StringVar(&s.secret, "secret", "", "reference to the secret, env:NAME or file:PATH; by default the development secret")
	fl.StringVar(&s.data, "data", "", "body: text, @FILE, or @- for the standard input; by default a sample")
	fl.StringVar(&s.contentType, "content-type", "", "content type of --data; by default the provider's first")
	fl.IntVar(&s.count, "count", 1, "how many to send, one after the other")
	fl.BoolVar(&s.forge, "forge", false, "sign wrongly; it is a failure if that is accepted")
	fl.StringVar(&s.source, "source", "", "source to send a TYPE to; by default the one called like the provider")
	f := &s.facts
	fl.StringVar(&f.ID, "id", "", "delivery id; by default a random one")
	fl.StringVar(&f.Customer, "customer", "", "Stripe: customer")
	fl.StringVar(&f.Charge, "charge", "", "Stripe: charge")
	fl.Int64Var(&f.Amount, "amount", 0, "Stripe: amount in the currency's minor unit")
	fl.Int64Var(&f.Refunded, "refunded", 0, "Stripe: refunded in total so far")
	fl.StringVar(&f.Currency, "currency", "", "Stripe: currency")
	fl.StringVar(&f.Repository, "repository", "", "GitHub: repository, owner/name")
	fl.Int64Var(&f.Number, "number", 0, "GitHub: number of the issue or pull request")
	fl.StringVar(&f.Channel, "channel", "", "Slack: channel")
	fl.StringVar(&f.Text, "text", "", "Slack: text")
	return cmd
}

func (s *sender) run(ctx context.Context) error {
	if s.count < 1 || s.count > 1_000_000 {
		return errors.New("--count is from 1 to 1000000")
	}
	row, own, err := s.row(ctx)
	if err != nil {
		return err
	}
	if s.source == "" {
		s.source = row.Name
	}
	if s.to == "" {
		if s.to, err = url.JoinPath(s.url, "hooks", url.PathEscape(s.source)); err != nil {
			return fmt.Errorf("--url: %w", err)
		}
	}
	secret, err := s.key(row, own)
	if err != nil {
		return err
	}
	if s.public == "" {
		s.public = own.PublicURL
	}
	var body []byte
	if s.data != "" {
		if body, err = s.body(); err != nil {
			return fmt.Errorf("--data: %w", err)
		}
	}
	failed := 0
	for i := range s.count {
		ok, err := s.send(ctx, row, secret, body, i)
		if err != nil {
			return err
		}
		if !ok {
			failed++
		}
	}
	switch {
	case failed == 0:
		return nil
	case s.forge:
		return fmt.Errorf("%d of %d forged deliveries were not refused as such", failed, s.count)
	}
	return fmt.Errorf("%d of %d deliveries were not accepted", failed, s.count)
}

// row is the provider: as named, or that of the source, which the configuration or else the node knows. own is what the
// configuration says of the source.
func (s *sender) row(ctx context.Context) (p ingress.Provider, own ingress.Source, err error) {
	var cfg Config
	name := s.provider
	if name == "" && slices.Contains(sampleTypes(), s.kind) {
		name, _, _ = strings.Cut(s.kind, ".")
	}
	if name == "" && s.source == "" {
		return p, own, errors.New("name a source, a type or a --provider")
	}
	if s.config != "" {
		if cfg, err = LoadConfig(s.config, os.Environ()); err != nil {
			return p, own, &problemList{err}
		}
		if source, there := cfg.Sources[cmp.Or(s.source, name)]; there {
			if own, err = cfg.source(cmp.Or(s.source, name)); err != nil {
				return p, own, err
			}
			name = cmp.Or(name, source.Provider)
		}
	}
	if name == "" {
		var status ingress.SourceStatus
		quiet := s.remote
		quiet.raw = false
		code, err := quiet.call(ctx, http.MethodGet, "/v1/sources/"+url.PathEscape(s.source), nil, &status)
		if err != nil && code != http.StatusUnauthorized {
			return p, own, fmt.Errorf("ask for the provider of %s, which --provider names: %w", s.source, err)
		}
		if name = status.Provider; err != nil {
			name = s.source // most are called so
		}
	}
	p, ok := cfg.Provider(name)
	if !ok {
		return p, own, fmt.Errorf("there is no provider %q; see penstock sources providers", name)
	}
	return p, own, nil
}

// key is the secret to sign with.
func (s *sender) key(row ingress.Provider, own ingress.Source) (ingress.Secret, error) {
	switch {
	case s.forge && !privately(row):
		return wrongSecret(row), nil
	case s.secret == "" && len(own.Secrets) > 0:
		return own.Secrets[0].Secret, nil
	case s.secret == "":
		return ingress.Secret(developmentSecret(row.Name + ".")), nil
	}
	b, err := resolve(s.secret)
	if err != nil {
		return nil, fmt.Errorf("--secret: %w", err)
	}
	return b, nil
}

// privately says that the provider signs with a key that nobody else has.
func privately(row ingress.Provider) bool {
	return row.Scheme.Key == ingress.PublicKeys || row.Scheme.Key == ingress.VendorPublicKey
}

// wrongSecret is one of the form that the provider's have.
func wrongSecret(row ingress.Provider) ingress.Secret {
	b := make([]byte, 32)
	rand.Read(b) // never fails
	switch row.Scheme.Key {
	case ingress.HexKeys:
		return ingress.Secret(hex.EncodeToString(b))
	case ingress.WhsecKeys, ingress.Base64Keys:
		return ingress.Secret(base64.StdEncoding.EncodeToString(b))
	}
	return ingress.Secret("wrong:" + hex.EncodeToString(b)) // also a user with a password
}

func (s *sender) body() ([]byte, error) {
	path, file := strings.CutPrefix(s.data, "@")
	if !file {
		return []byte(s.data), nil
	}
	in := s.in
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, sendData+1))
	if err == nil && len(b) > sendData {
		err = fmt.Errorf("it is larger than %d bytes", sendData)
	}
	return b, err
}

// delivery is the i-th delivery, signed.
func (s *sender) delivery(row ingress.Provider, secret ingress.Secret, body []byte, i int) (ingress.Request, error) {
	facts, kind := s.facts, s.kind
	if i > 0 && facts.ID != "" {
		facts.ID = fmt.Sprintf("%s-%d", facts.ID, i+1) // or all but the first would be duplicates
	}
	if known := ingress.SampleTypes(row.Name); kind == "" && len(known) > 0 {
		kind = known[0]
	} else if kind == "" {
		kind = row.Name + ".example" // a row of the operator's own
	} else if !strings.HasPrefix(kind, row.Name+".") {
		kind = row.Name + "." + kind
	}
	d, err := row.NewSample(kind, facts)
	if err != nil {
		return ingress.Request{}, err
	}
	address := s.public
	if address == "" {
		address = s.to
	}
	if strings.Contains(address, "?") {
		d.Query = strings.Replace(d.Query, "?", "&", 1)
	}
	r := ingress.Request{Method: http.MethodPost, URL: address + d.Query, Header: d.Header, Body: d.Body}
	if body != nil {
		r.Body = body
		if s.contentType != "" {
			r.Header.Set("Content-Type", s.contentType)
		}
	}
	if err := row.Scheme.Sign(&r, secret, time.Now()); err != nil {
		return r, fmt.Errorf("%s: %w", row.Name, err)
	}
	return r, nil
}

// send sends the i-th delivery and prints the answer. ok says that it was answered as it deserves.
func (s *sender) send(ctx context.Context, row ingress.Provider, secret ingress.Secret, body []byte, i int) (ok bool, err error) {
	signed, err := s.delivery(row, secret, body, i)
	if err != nil {
		return false, err
	}
	if s.forge && privately(row) { // the key is right, but the body is another
		signed.Body = append(signed.Body[:len(signed.Body):len(signed.Body)], ' ')
	}
	target := s.to
	if _, query, has := strings.Cut(signed.URL, "?"); has && !strings.Contains(target, "?") {
		target += "?" + query
	}
	ctx, cancel := context.WithTimeout(ctx, sendPatience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, signed.Method, target, bytes.NewReader(signed.Body))
	if err != nil {
		return false, err
	}
	r.Header = signed.Header
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(r)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, sendAnswer))
	if err != nil {
		return false, fmt.Errorf("read the answer of %s: %w", target, err)
	}
	text := printable(strings.TrimSpace(string(answer)))
	if where := resp.Header.Get("Penstock-Durability"); where != "" {
		text = strings.TrimSpace(text + " (in the " + map[string]string{"log": "log", "spooled": "spool"}[where] + ")")
	}
	if _, err := fmt.Fprintf(s.out, "%s %s\n", resp.Status, text); err != nil {
		return false, err
	}
	if s.forge {
		return resp.StatusCode == http.StatusUnauthorized, nil
	}
	return resp.StatusCode/100 == 2, nil
}

// sampleTypes are the types of the samples of the given providers, or of all.
func sampleTypes(providers ...string) (all []string) {
	for _, p := range ingress.Providers {
		if len(providers) == 0 || slices.Contains(providers, p.Name) {
			all = append(all, ingress.SampleTypes(p.Name)...)
		}
	}
	return all
}
