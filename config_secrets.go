package penstock

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
)

// SecretRef is a reference to a secret, env:NAME or file:PATH, and when the secret counts. In the file it is the
// reference alone, or {ref: env:NAME, from: 2026-01-31T12:00:00Z, until: …}. A zero time doesn't bound.
type SecretRef struct {
	Ref         string
	From, Until time.Time

	wrong error // what the file says that can't be read; told by check, with the line
}

// Refs are references to secrets that always count.
func Refs(refs ...string) (list []SecretRef) {
	for _, r := range refs {
		list = append(list, SecretRef{Ref: r})
	}
	return list
}

// check says what is wrong with the entry itself; whether there is such a secret, resolve knows.
func (s SecretRef) check() error {
	switch {
	case s.wrong != nil:
		return s.wrong
	case !s.From.IsZero() && !s.Until.IsZero() && !s.From.Before(s.Until):
		return fmt.Errorf("the secret %s counts from %s, which is not before its until, %s", s.shown(),
			s.From.Format(time.RFC3339), s.Until.Format(time.RFC3339))
	}
	return nil
}

// shown is the reference, if it is one: what isn't may be the secret itself.
func (s SecretRef) shown() string {
	if refKind(s.Ref) == "" {
		return "(no reference)"
	}
	return s.Ref
}

// checkSecrets reports what is wrong with a source's list of secrets as of now. That one doesn't count yet is fine, and so
// is one that has expired beside another: both are steps of a rotation.
func checkSecrets(list []SecretRef, now time.Time) error {
	var errs []error
	for _, s := range list {
		errs = append(errs, s.check())
	}
	expired := func(s SecretRef) bool { return !s.Until.IsZero() && !now.Before(s.Until) }
	if len(list) > 0 && !slices.ContainsFunc(list, func(s SecretRef) bool { return !expired(s) }) {
		last := slices.MaxFunc(list, func(a, b SecretRef) int { return a.Until.Compare(b.Until) })
		errs = append(errs, fmt.Errorf("every secret has expired, the last one, %s, on %s", last.shown(), last.Until.Format(time.RFC3339)))
	}
	return errors.Join(errs...)
}

// decodeSecretRef is a decode hook for SecretRef. What it can't read it leaves in the value, where check finds it: an
// error of the decoder has no line.
func decodeSecretRef(from, to reflect.Type, data any) (any, error) {
	if to != reflect.TypeFor[SecretRef]() {
		return data, nil
	}
	switch v := data.(type) {
	case string:
		return SecretRef{Ref: v}, nil
	case map[string]any:
		return secretRefOf(v), nil
	}
	return SecretRef{wrong: errors.New("a secret is a reference, env:NAME or file:PATH, or {ref, from, until}")}, nil
}

var _ mapstructure.DecodeHookFuncType = decodeSecretRef

func secretRefOf(m map[string]any) (s SecretRef) {
	at := func(key string, into *time.Time) {
		switch v := m[key].(type) {
		case nil:
		case time.Time: // YAML has times of its own
			*into = v
		case string:
			t, err := time.Parse(time.RFC3339, v)
			if err != nil {
				s.wrong = fmt.Errorf("%s is not a time such as 2026-01-31T12:00:00Z", key)
			}
			*into = t
		default:
			s.wrong = fmt.Errorf("%s is not a time such as 2026-01-31T12:00:00Z", key)
		}
	}
	for key := range m {
		if !slices.Contains([]string{"ref", "from", "until"}, key) {
			s.wrong = fmt.Errorf("no such key: %s; a secret has ref, from and until", key)
			return s
		}
	}
	ref, ok := m["ref"].(string)
	if s.Ref = ref; !ok {
		s.wrong = errors.New("a secret needs its ref, env:NAME or file:PATH")
		return s
	}
	at("from", &s.From)
	at("until", &s.Until)
	return s
}

// refKind is "env" or "file", or empty for what is no reference.
func refKind(ref string) string {
	kind, name, _ := strings.Cut(ref, ":")
	if name == "" || kind != "env" && kind != "file" {
		return ""
	}
	return kind
}
