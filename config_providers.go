package penstock

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/ingress"
)

// ProviderConfig is a row of the operator's own, for a provider that isn't built in. See ingress.Custom.
type ProviderConfig struct {
	Docs         string      `koanf:"docs"`
	Algorithm    string      `koanf:"algorithm"`
	Header       string      `koanf:"header"`
	Encoding     string      `koanf:"encoding"`
	Key          string      `koanf:"key"`
	Layout       string      `koanf:"layout"`
	Prefix       string      `koanf:"prefix"`
	Label        string      `koanf:"label"`
	Separator    string      `koanf:"separator"`
	Assign       string      `koanf:"assign"`
	Message      string      `koanf:"message"`
	Timestamp    StampConfig `koanf:"timestamp"`
	Type         []string    `koanf:"type"`
	ID           []string    `koanf:"id"`
	Subject      []string    `koanf:"subject"`
	ContentTypes []string    `koanf:"content_types"`
	Repeats      bool        `koanf:"repeats"`
	MaxBody      int64       `koanf:"max_body"`
	Inflated     bool        `koanf:"inflated"`
	Keep         []string    `koanf:"keep"`
}

// StampConfig says where the timestamp of a row stands. See ingress.CustomTime.
type StampConfig struct {
	Header    string        `koanf:"header"`
	Key       string        `koanf:"key"`
	Body      string        `koanf:"body"`
	Unit      string        `koanf:"unit"`
	Tolerance time.Duration `koanf:"tolerance"`
}

func (p ProviderConfig) row(name string) (ingress.Provider, error) {
	return ingress.NewProvider(name, ingress.Custom{
		Docs: p.Docs, Algorithm: p.Algorithm, Header: p.Header, Encoding: p.Encoding, Key: p.Key, Layout: p.Layout, Prefix: p.Prefix,
		Label: p.Label, Separator: p.Separator, Assign: p.Assign, Message: p.Message, Timestamp: ingress.CustomTime(p.Timestamp),
		Type: p.Type, ID: p.ID, Subject: p.Subject, Repeats: p.Repeats, ContentTypes: p.ContentTypes, MaxBody: p.MaxBody, Inflated: p.Inflated, Keep: p.Keep,
	})
}

// Provider returns the row of a name: one of the configuration's own, or a built-in one.
func (c Config) Provider(name string) (ingress.Provider, bool) {
	if own, ok := c.Providers[name]; ok {
		p, err := own.row(name)
		return p, err == nil
	}
	return ingress.ProviderNamed(name)
}

// source is a source with all that the configuration says of it.
func (c Config) source(name string) (ingress.Source, error) {
	s := c.Sources[name]
	out, err := s.source(name)
	if err != nil {
		return out, err
	}
	if own, ok := c.Providers[s.Provider]; ok {
		row, err := own.row(s.Provider)
		if err != nil {
			return out, fmt.Errorf("provider %s: %w", s.Provider, err)
		}
		out.Row = &row
	}
	out.Tolerance = s.Tolerance
	if out.PublicURL = s.PublicURL; out.PublicURL == "" && c.PublicURL != "" {
		out.PublicURL = strings.TrimSuffix(c.PublicURL, "/") + "/hooks/" + url.PathEscape(name)
	}
	return out, nil
}

// rowProblems checks the rows, and the addresses that signatures cover.
func (c Config) rowProblems() (all []problem) {
	for _, name := range sortedKeys(c.Providers) {
		_, err := c.Providers[name].row(name)
		for _, err := range eachOf(err) {
			key := "providers." + name
			if e, ok := errors.AsType[*domain.Error](err); ok && e.Field != "" {
				key, err = key+"."+e.Field, errors.New(e.Message)
			}
			all = append(all, problem{key, err})
		}
	}
	if err := checkPublic(c.PublicURL); err != nil {
		all = append(all, problem{"public_url", err})
	}
	for _, name := range sortedKeys(c.Sources) {
		s := c.Sources[name]
		if err := checkPublic(s.PublicURL); err != nil {
			all = append(all, problem{"sources." + name + ".public_url", err})
		}
		if s.Tolerance < 0 || s.Tolerance > 7*24*time.Hour {
			all = append(all, problem{"sources." + name + ".tolerance", fmt.Errorf("between 0 and 168h, not %s", s.Tolerance)})
		}
	}
	return all
}

// checkPublic checks an address that providers know a URL under. It may have a path: a proxy can put one before ours.
func checkPublic(text string) error {
	if text == "" {
		return nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || strings.ContainsAny(text, "?# ") {
		return errors.New("an address such as https://hooks.example.com, without a query")
	}
	return nil
}

// eachOf are the errors that were joined into one.
func eachOf(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	if err == nil {
		return nil
	}
	return []error{err}
}
