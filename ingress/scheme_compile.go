package ingress

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// compile fills in what zero values stand for, and checks what can be checked of a row.
func (s *Scheme) compile() error {
	if s.Digest == nil {
		s.Digest = sha256.New
	}
	s.size = s.Digest().Size()
	if s.Message == nil && s.Algorithm != Token && s.Algorithm != Basic && s.Algorithm != None && s.Algorithm != JWT {
		s.Message = []Part{Body()}
	}
	if s.Separator == "" {
		s.Separator = map[Layout]string{Tagged: " "}[s.Layout]
		if s.Separator == "" {
			s.Separator = ","
		}
	}
	if s.Assign == "" {
		s.Assign = map[Layout]string{Tagged: ","}[s.Layout]
		if s.Assign == "" {
			s.Assign = "="
		}
	}
	var paths []string
	want := func(path string) {
		if path != "" {
			paths = append(paths, path)
			s.needs |= needsJSON
		}
	}
	want(s.Field)
	want(s.TimeField)
	want(s.Pinned)
	want(s.If)
	want(s.KeyField)
	for _, message := range append([][]Part{s.Message}, s.Or...) {
		for _, part := range message {
			s.needs |= part.needs()
			if part.kind == partField {
				want(part.text)
			}
			for _, name := range part.fields {
				want(name)
			}
		}
	}
	if s.Form != "" {
		s.needs |= needsForm
	}
	if s.Claims != nil && (s.Claims.QueryHash != "" || s.Claims.URLHash != "") {
		s.needs |= needsURL
	}
	if s.Each != "" {
		s.array = wanted(s.Each)
	}
	s.fields = wanted(paths...)
	for i := range s.Also {
		s.Also[i].paired, s.paired = true, true
		if err := s.Also[i].compile(); err != nil {
			return err
		}
	}
	return s.complete()
}

// complete reports what a scheme lacks.
func (s *Scheme) complete() error {
	places := btoi(s.Header != "") + btoi(s.Field != "") + btoi(s.Form != "") + btoi(s.InBody)
	times := btoi(s.TimeHeader != "") + btoi(s.TimeKey != "") + btoi(s.TimeField != "") + btoi(s.Layout == Positional)
	switch {
	case s.Algorithm != None && places != 1:
		return errors.New("a signature stands in one place: a header, a field of the body, a form field, or the body")
	case times > 1:
		return errors.New("a timestamp stands in one place")
	case s.TimeKey != "" && s.Layout != Pairs:
		return errors.New("a timestamp has a key only in a list of pairs")
	case s.Layout == Pairs && s.Label == "", s.Layout == Tagged && s.Label == "":
		return errors.New("the key or tag of the signatures is missing")
	case !s.timed() && s.Tolerance != 0 && s.Algorithm != JWT:
		return errors.New("a tolerance needs a timestamp")
	case s.Tolerance < 0:
		return fmt.Errorf("the tolerance can't be %v", s.Tolerance)
	case (s.Algorithm == JWT) != (s.Claims != nil):
		return errors.New("a JWT, and nothing else, has claims")
	case s.Key == VendorPublicKey != (s.Vendor != nil):
		return errors.New("a provider's own key needs to be found")
	case s.asymmetric() != (s.Key == PublicKeys || s.Key == WhpkKeys || s.Key == VendorPublicKey):
		return errors.New("the key rule is not one for this algorithm")
	}
	return nil
}

// asymmetric reports whether the provider signs with a key that it doesn't share.
func (s *Scheme) asymmetric() bool {
	switch s.Algorithm {
	case Ed25519, ECDSA, RSA:
		return true
	case JWT:
		return s.Claims.Algorithm != HS256
	}
	return false
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// binding is what a scheme covers if its row doesn't say.
func (s *Scheme) binding() Binding {
	switch s.Algorithm {
	case None:
		return Unverified
	case Token, Basic:
		return SharedToken
	}
	return BodySigned
}

// covered says what is signed, for the record of a delivery.
func (s *Scheme) covered(b Binding) string {
	if b != BodySigned {
		return string(b)
	}
	names := map[partKind]string{
		partHeader: "header", partTimestamp: "timestamp", partBody: "body", partMethod: "method", partURL: "url",
		partURLDecoded: "url", partURLOtherPort: "url", partPath: "path", partQuery: "query", partFormField: "body",
		partForm: "body", partFormOrHash: "body", partField: "fields", partLines: "body", partSignedHeaders: "headers",
	}
	var covered []string
	for _, part := range s.Message {
		if name := names[part.kind]; name != "" && !slices.Contains(covered, name) {
			covered = append(covered, name)
		}
	}
	if s.TimeField != "" && !slices.Contains(covered, "timestamp") {
		covered = append([]string{"timestamp"}, covered...)
	}
	return strings.Join(covered, "+")
}

// headers are the headers that a verification needs, and that may be recorded: no credentials.
func (s *Scheme) headers() (names []string) {
	add := func(name string) {
		if name != "" {
			names = append(names, name)
		}
	}
	if s.Algorithm != Token && s.Algorithm != Basic {
		for _, name := range append([]string{s.Header}, s.Headers...) {
			if s.Numbered {
				name += "-*"
			}
			add(name)
		}
	}
	add(s.TimeHeader)
	for _, message := range append([][]Part{s.Message}, s.Or...) {
		for _, part := range message {
			if part.kind == partHeader || part.kind == partSignedHeaders {
				add(part.text)
			}
		}
	}
	for i := range s.Also {
		names = append(names, s.Also[i].headers()...)
	}
	return names
}

func (s *Scheme) needsURL() bool {
	return s.needs&needsURL != 0 || slices.ContainsFunc(s.Also, func(s Scheme) bool { return s.needsURL() })
}

// within is the scheme with another tolerance, if it has one at all.
func (s Scheme) within(tolerance time.Duration) Scheme {
	if s.timed() || s.Claims != nil && s.Claims.IssuedAt {
		s.Tolerance = tolerance
	}
	s.Also = slices.Clone(s.Also)
	for i := range s.Also {
		s.Also[i] = s.Also[i].within(tolerance)
	}
	return s
}

// check reports whether a secret is a key of the scheme, or of one of the others of its row.
func (s *Scheme) check(secret Secret) error {
	_, err := s.material(secret)
	for i := 0; err != nil && i < len(s.Also); i++ {
		if s.Also[i].check(secret) == nil {
			return nil
		}
	}
	return err
}
