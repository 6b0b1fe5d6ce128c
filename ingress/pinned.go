package ingress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"syscall"
	"time"
)

const (
	fetchTimeout = 1500 * time.Millisecond // within the answer that a provider waits for
	fetchSize    = 64 << 10                // bytes; a chain of certificates has less than 8 KiB
)

// Pin says which URLs of a provider may be asked. Everything else isn't, whatever a request says.
type Pin struct {
	Host *regexp.Regexp // the whole host name
	Path *regexp.Regexp // the whole path
}

// allows returns the URL if it is on the pin: https on the standard port, without user, query and fragment.
func (p Pin) allows(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" ||
		u.Port() != "" && u.Port() != "443" || !p.Host.MatchString(u.Hostname()) || !p.Path.MatchString(u.EscapedPath()) {
		return nil, errors.New("the address is not one of the provider's")
	}
	return u, nil
}

// pinned is an HTTP client for addresses that requests of strangers lead to. It follows no redirect, uses no proxy,
// never connects to an address that is not on the public internet, and reads a bounded answer in a bounded time.
type pinned struct {
	client *http.Client
}

// newPinned returns a client that trusts roots, nil for those of the system. dial replaces the connection, for tests.
func newPinned(roots *x509.CertPool, dial func(ctx context.Context, network, address string) (net.Conn, error)) *pinned {
	if dial == nil {
		dialer := &net.Dialer{Timeout: fetchTimeout, Control: func(_, address string, _ syscall.RawConn) error {
			return publicOnly(address)
		}}
		dial = dialer.DialContext
	}
	return &pinned{&http.Client{
		Timeout: fetchTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
		Transport: &http.Transport{
			Proxy: nil, DialContext: dial, ForceAttemptHTTP2: true, TLSHandshakeTimeout: fetchTimeout,
			ResponseHeaderTimeout: fetchTimeout, MaxResponseHeaderBytes: 16 << 10, MaxIdleConns: 4, IdleConnTimeout: 30 * time.Second,
			MaxConnsPerHost: 4,
			TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		},
	}}
}

// errGone is the answer of a provider that has no such key.
var errGone = errors.New("the provider has no such key")

// answered is any other answer than 200. Only 404 and 410 say that there is no such thing, and are errGone. 401 and 403
// are about us, and come from firewalls and expired tokens too: no reason to forget a key that is known.
type answered struct {
	host, status string
	code         int
}

func (a *answered) Error() string { return "ask " + a.host + ": " + a.status }

func (a *answered) Is(target error) bool {
	return target == errGone && (a.code == http.StatusNotFound || a.code == http.StatusGone)
}

// get fetches what is at u. With the error *answered comes what was answered.
func (p *pinned) get(ctx context.Context, u *url.URL, header http.Header) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	return p.do(r, header)
}

func (p *pinned) do(r *http.Request, header http.Header) ([]byte, error) {
	for name, values := range header {
		r.Header[name] = values
	}
	r.Header.Set("User-Agent", "penstock")
	answer, err := p.client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", r.URL.Hostname(), withoutURL(err))
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, fetchSize+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("ask %s: %w", r.URL.Hostname(), err)
	case len(body) > fetchSize:
		return nil, fmt.Errorf("ask %s: more than %d bytes", r.URL.Hostname(), fetchSize)
	case answer.StatusCode != http.StatusOK:
		return body, &answered{r.URL.Hostname(), answer.Status, answer.StatusCode}
	}
	return body, nil
}
