package ingress

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
)

// group is a timestamp and the signatures that go with it.
type group struct {
	stamp      string // as sent
	signatures [][]byte
}

// signed is what a request says of its signatures. A header has one group, but for a scheme with Groups.
type signed struct {
	groups []group
	keyID  string
	count  int // of candidates, well-formed or not

	one [1]group
}

// where names the place of the signatures, for a refusal.
func (s *Scheme) where() string {
	switch {
	case s.Header != "":
		return s.Header
	case s.Field != "":
		return s.Field
	case s.Form != "":
		return s.Form
	}
	return "the body"
}

// each calls use with the text of every signature place that the request has.
func (p *pass) each(use func(text string) error) error {
	s := p.s
	switch {
	case s.Numbered:
		for i := 1; i <= maxNumbered; i++ {
			text, err := single(p.r.Header, s.Header+"-"+strconv.Itoa(i))
			if f, ok := errors.AsType[*Failure](err); i > 1 && ok && f.Reason == MissingHeader {
				return nil
			} else if err != nil {
				return err
			}
			if err := use(text); err != nil {
				return err
			}
		}
		return nil
	case s.Field != "":
		text, ok := p.fields.scalar(s.Field)
		if !ok || text == "" {
			return failf(MissingHeader, "the body has no %s", s.Field)
		}
		return use(text)
	case s.Form != "":
		found := p.form[s.Form]
		if len(found) != 1 {
			return failf(MissingHeader, "the form has not one %s", s.Form)
		}
		return use(found[0])
	case s.InBody:
		return use(string(bytes.TrimSpace(p.r.Body)))
	}
	text, err := single(p.r.Header, s.Header)
	if len(s.Headers) == 0 {
		if err != nil {
			return err
		}
		return use(text)
	}
	there := false
	for i := -1; i < len(s.Headers); i++ {
		if i >= 0 {
			text, err = single(p.r.Header, s.Headers[i])
		}
		if f, ok := errors.AsType[*Failure](err); ok && f.Reason == MissingHeader {
			continue
		} else if err != nil {
			return err
		}
		there = true
		if err := use(text); err != nil {
			return err
		}
	}
	if !there {
		return failf(MissingHeader, "no %s header", s.Header)
	}
	return nil
}

// collect reads the signatures and their times.
func (p *pass) collect(out *signed) error {
	s := p.s
	out.groups = out.one[:0]
	if len(s.Headers) == 0 && !s.Numbered && s.Field == "" && s.Form == "" && !s.InBody { // most
		text, err := single(p.r.Header, s.Header)
		if err != nil {
			return err
		}
		if err := s.parse(text, out); err != nil {
			return err
		}
	} else if err := p.each(func(text string) error { return s.parse(text, out) }); err != nil {
		return err
	}
	if len(out.groups) == 0 {
		return failf(Malformed, "%s has no well-formed %q signature", s.where(), s.Label)
	}
	switch {
	case s.TimeHeader != "":
		stamp, err := single(p.r.Header, s.TimeHeader)
		if err != nil {
			return err
		}
		out.groups[0].stamp = stamp
	case s.TimeField != "":
		stamp, ok := p.fields.scalar(s.TimeField)
		if !ok {
			return failf(MissingHeader, "the body has no %s", s.TimeField)
		}
		out.groups[0].stamp = stamp
	}
	return nil
}

// parse reads one signature text. Entries of other schemes, such as Stripe's v0, are passed over.
func (s *Scheme) parse(text string, out *signed) error {
	if len(text) > maxSignatureHeader {
		return failf(Malformed, "%s is longer than %d bytes", s.where(), maxSignatureHeader)
	}
	if s.Groups == "" {
		return s.parseGroup(text, out)
	}
	for list := range strings.SplitSeq(text, s.Groups) {
		var one signed
		one.groups = one.one[:0]
		if err := s.parseGroup(list, &one); err != nil {
			return err
		}
		if out.groups = append(out.groups, one.groups...); len(out.groups) > maxGroups {
			return failf(Malformed, "%s has more than %d lists", s.where(), maxGroups)
		}
	}
	return nil
}

func (s *Scheme) parseGroup(text string, out *signed) error {
	var stamp string
	switch s.Layout {
	case Prefixed:
		if sig, ok := strings.CutPrefix(text, s.Label); ok {
			return s.add(out, sig)
		}
	case Pairs:
		for pair := range strings.SplitSeq(text, s.Separator) {
			key, value, ok := strings.Cut(strings.TrimSpace(pair), s.Assign)
			switch {
			case !ok:
				return failf(Malformed, "%s is not a list of key%svalue", s.where(), s.Assign)
			case s.TimeKey != "" && key == s.TimeKey:
				if stamp != "" {
					return failf(Malformed, "%s has more than one %s", s.where(), s.TimeKey)
				}
				stamp = value
			case key == s.Label || s.Label == "*":
				if err := s.add(out, value); err != nil {
					return err
				}
			}
		}
	case Tagged:
		for entry := range strings.SplitSeq(text, s.Separator) {
			if tag, sig, ok := strings.Cut(entry, s.Assign); ok && tag == s.Label {
				if err := s.add(out, sig); err != nil {
					return err
				}
			}
		}
	case List, Positional:
		for i, entry := range strings.Split(text, s.Separator) {
			if entry = strings.TrimSpace(entry); i == 0 && s.Layout == Positional {
				stamp = entry
			} else if err := s.add(out, entry); err != nil {
				return err
			}
		}
	case Enveloped:
		return s.parseEnvelope(text, out)
	}
	if len(out.groups) > 0 {
		out.groups[0].stamp = stamp
	}
	return nil
}

// add notes a candidate, if it has the form of a signature.
func (s *Scheme) add(out *signed, text string) error {
	limit := maxSignatures
	if s.Numbered {
		limit = maxNumbered
	}
	if out.count++; out.count > limit {
		return failf(Malformed, "%s has more than %d signatures", s.where(), limit)
	}
	sig, err := s.decode(text)
	if err != nil || len(sig) == 0 || s.Algorithm == HMAC && len(sig) != s.size || s.Algorithm == Ed25519 && len(sig) != 64 {
		return nil
	}
	if len(out.groups) == 0 {
		out.groups = append(out.groups, group{})
	}
	out.groups[0].signatures = append(out.groups[0].signatures, sig)
	return nil
}

func (s *Scheme) decode(sig string) ([]byte, error) {
	switch s.Encoding {
	case Base64:
		return base64.StdEncoding.Strict().DecodeString(sig)
	case Base64URL:
		return base64.RawURLEncoding.Strict().DecodeString(sig)
	}
	return hex.DecodeString(sig)
}

var envelope = wanted("signature", "kid")

func (s *Scheme) parseEnvelope(text string, out *signed) error {
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return failf(Malformed, "%s is not base64", s.where())
	}
	found, err := envelope.find(b)
	if err != nil {
		return failf(Malformed, "%s is not JSON in base64", s.where())
	}
	out.keyID = found.text("kid")
	return s.add(out, found.text("signature"))
}
