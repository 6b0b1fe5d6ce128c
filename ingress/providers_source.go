package ingress

import "net/url"

// row is the row of a source, as the source has it.
func (s Source) row() (Provider, bool) {
	p, ok := ProviderNamed(s.Provider)
	if s.Row != nil {
		p, ok = *s.Row, s.Row.Name == s.Provider
	}
	if !ok {
		return Provider{}, false
	}
	if s.Tolerance > 0 {
		p.Scheme = p.Scheme.within(s.Tolerance)
	}
	if s.Unverified {
		return p.Unverified(), true
	}
	return p, true
}

// Unverified is the row without its signatures: it files what anybody sends in the provider's shape.
func (p Provider) Unverified() Provider {
	p.Scheme, p.Binding, p.Verification = Scheme{Algorithm: None}, Unverified, p.Name+"; none"
	return p
}

// address is the URL of a request as the provider called it: that of the source, with the request's own query. Nothing
// of it comes from headers.
func (s Source) address(u *url.URL) string {
	if s.PublicURL == "" || u.RawQuery == "" {
		return s.PublicURL
	}
	return s.PublicURL + "?" + u.RawQuery
}
