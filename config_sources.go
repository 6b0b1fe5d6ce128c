package penstock

import (
	"errors"
	"fmt"
	"net"
	"reflect"

	"github.com/penstock-io/penstock/ingress"
)

// Rules are the conditions that a source's deliveries must fulfil, all of them, to be kept: CEL expressions by name. In
// the file they are a map, one expression alone, or a list of expressions; without a name they are called when, when-2
// and so on.
type Rules map[string]string

// LimitsConfig bounds how many requests a second a source answers. 0 is no limit, a burst of 0 that of a second.
type LimitsConfig struct {
	Rate        float64 `koanf:"rate"` // of the source
	Burst       int     `koanf:"burst"`
	ClientRate  float64 `koanf:"client_rate"` // of each sender's address
	ClientBurst int     `koanf:"client_burst"`
}

// unverified is the setting of a source that takes what nobody has signed.
const unverified = "none"

// decodeRules is a decode hook for Rules.
func decodeRules(_, to reflect.Type, data any) (any, error) {
	if to != reflect.TypeFor[Rules]() {
		return data, nil
	}
	list, isList := data.([]any)
	if text, ok := data.(string); ok {
		list, isList = []any{text}, true
	}
	if !isList {
		return data, nil
	}
	rules := map[string]any{}
	for i, entry := range list {
		name := "when"
		if i > 0 {
			name = fmt.Sprintf("when-%d", i+1)
		}
		switch v := entry.(type) {
		case string:
			rules[name] = v
		case map[string]any:
			for name, expression := range v {
				rules[name] = expression
			}
		default:
			return nil, fmt.Errorf("when: rule %d is no expression", i+1)
		}
	}
	return rules, nil
}

// list is in the order of the names, so that of several rules that drop a delivery the same one is named each time.
func (r Rules) list() (rules []ingress.Rule) {
	for _, name := range sortedKeys(r) {
		rules = append(rules, ingress.Rule{Name: name, Expression: r[name]})
	}
	return rules
}

// conditions are the settings about what a source takes, and from whom.
func (s SourceConfig) conditions(out *ingress.Source) {
	out.When, out.Allow, out.AllowFile, out.ContentTypes = s.When.list(), s.Allow, s.AllowFile, s.ContentTypes
	out.Limits = ingress.Limits(s.Limits)
	out.Unverified = s.Verification == unverified
}

// conditionProblems checks what has a line of its own in the file.
func (s SourceConfig) conditionProblems() (all []problem) {
	for _, rule := range s.When.list() {
		if err := rule.Check(); err != nil {
			all = append(all, problem{".when." + rule.Name, err})
		}
	}
	if s.Verification != "" && s.Verification != unverified {
		all = append(all, problem{".verification", fmt.Errorf("only %q can be said of it, not %q", unverified, s.Verification)})
	}
	if s.Verification == unverified && len(s.Secrets)+len(s.literal) > 0 {
		all = append(all, problem{".verification", errors.New("the source has secrets, which nothing would be verified with")})
	}
	return all
}

// openDoors are the sources that anybody could send to in a provider's name. An unverified source needs something else
// that keeps strangers out: a listener that only this machine reaches, or a list of addresses. Behind a proxy a loopback
// listener keeps nobody out.
func (c Config) openDoors() (all []problem) {
	host, _, err := net.SplitHostPort(c.Listen)
	private := err == nil && loopback(host) && len(c.TrustedProxies) == 0
	for _, name := range sortedKeys(c.Sources) {
		s := c.Sources[name]
		if s.Verification == unverified && !private && len(s.Allow) == 0 && s.AllowFile == "" {
			all = append(all, problem{"sources." + name + ".verification", errors.New("without verification anybody could send in the " +
				"provider's name: set allow or allow_file, or listen on loopback without trusted_proxies")})
		}
	}
	return all
}

// proxies are those whose word about a sender's address is taken.
func (c Config) proxies() (ingress.Proxies, error) {
	return ingress.ParseProxies(c.TrustedProxies, c.ProxyHeader)
}
