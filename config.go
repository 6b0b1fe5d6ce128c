package penstock

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/rawbytes"
	"github.com/knadh/koanf/v2"
	"github.com/penstock-io/penstock/ingress"
	yamlv3 "go.yaml.in/yaml/v3"
)

// Config is everything an operator can set. It comes from one YAML file; scalar keys also from the environment, as
// PENSTOCK_ and the key in capitals with '_' for '.': PENSTOCK_KAFKA_BROKERS=a:9092,b:9092.
type Config struct {
	// Listen is the HTTP address. Beyond loopback it needs Auth. Port 0 picks a free one. Default 127.0.0.1:8080.
	Listen string `koanf:"listen"`
	// Data is the folder of everything this node keeps. Default ./penstock-data.
	Data    string                  `koanf:"data"`
	Kafka   KafkaConfig             `koanf:"kafka"`
	Sources map[string]SourceConfig `koanf:"sources"`
	Auth    AuthConfig              `koanf:"auth"`
	// PublicURL is where providers reach this node: https://hooks.example.com. Those that sign the address they call need
	// it, because behind a proxy the request has another one.
	PublicURL string `koanf:"public_url"`
	// Providers are rows of your own, beside the built-in ones.
	Providers map[string]ProviderConfig `koanf:"providers"`
	// TrustedProxies are address ranges whose word about who asked them is taken, in ProxyHeader: X-Forwarded-For, the
	// default, or Forwarded. None: the other end of a connection is the sender.
	TrustedProxies []string `koanf:"trusted_proxies"`
	ProxyHeader    string   `koanf:"proxy_header"`
	// KeepRefused is how many refused requests of each source are kept to be looked at. Default 100.
	KeepRefused int `koanf:"keep_refused"`
	// MaxConnections bounds the HTTP connections at once, feeds aside; those beyond are closed. Default 10,000.
	MaxConnections int `koanf:"max_connections"`
	// MaxInFlight bounds the bytes of webhooks in hand, 64 KiB to 64 GiB; those beyond are answered 503. One that is larger
	// is taken when it is alone. Default 256 MiB.
	MaxInFlight int64       `koanf:"max_in_flight"`
	Spool       SpoolConfig `koanf:"spool"`

	Deliveries DeliveriesConfig `koanf:"deliveries"`
	Feeds      FeedsConfig      `koanf:"feeds"`
	TLS        TLSConfig        `koanf:"tls"`
	// Projections are read models that the file declares, by name.
	Projections map[string]ProjectionConfig `koanf:"projections"`
}

// SpoolConfig says how deliveries wait on this node's disk, in Data, while Kafka is away.
type SpoolConfig struct {
	// MaxBytes bounds them on disk. 0: none; then they are refused instead. Default 1 GiB.
	MaxBytes int64 `koanf:"max_bytes"`
	// After is how long Kafka may take to acknowledge a delivery before it is spooled. Default 1.5 s, at most 2 s,
	// because a webhook is answered within 2.5.
	After time.Duration `koanf:"after"`
}

// KafkaConfig says where the log is.
type KafkaConfig struct {
	// Brokers of a Kafka cluster. None: the embedded broker, in Data.
	Brokers []string `koanf:"brokers"`
	// Embedded is the loopback address of the embedded broker. Default 127.0.0.1:9092.
	Embedded string `koanf:"embedded"`
	// Prefix of topics, groups and transactional ids. Default penstock.
	Prefix string `koanf:"prefix"`
	// Partitions and Replication of topics that are created. Defaults 8 and 1.
	Partitions  int32 `koanf:"partitions"`
	Replication int16 `koanf:"replication"`
}

// SourceConfig is one sender of webhooks, known by its key in Sources: POST /hooks/‹key›.
type SourceConfig struct {
	Provider string `koanf:"provider"`
	// Secrets are references, env:NAME or file:PATH, with or without dates. A delivery may be signed with any that counts.
	Secrets []SecretRef `koanf:"secrets"`
	// Stream is a CEL expression for the key of a delivery's stream. Empty: the provider's default.
	Stream string `koanf:"stream"`
	// MaxBody bounds a body in bytes. 0: the provider's default.
	MaxBody int64 `koanf:"max_body"`
	// Handshake says when challenges that nobody signs are answered: while the source is armed, always, or off.
	Handshake string `koanf:"handshake"`
	// VerifyToken is a reference to what the provider's handshake shows or wants to see.
	VerifyToken string `koanf:"verify_token"`
	// Verification is empty, or "none" for a source that takes what nobody has signed.
	Verification string `koanf:"verification"`
	// When are rules that a verified delivery must fulfil to be kept.
	When Rules `koanf:"when"`
	// Allow are address ranges that deliveries come from, and AllowFile a file of further ones, read again when it
	// changes. Neither: from everywhere.
	Allow     []string     `koanf:"allow"`
	AllowFile string       `koanf:"allow_file"`
	Limits    LimitsConfig `koanf:"limits"`
	// ContentTypes are the media types that are taken, also text/* and */*. None: those of the provider.
	ContentTypes []string `koanf:"content_types"`
	// PublicURL is the address under which the provider knows the source, if it isn't that of Config with /hooks/‹key›.
	PublicURL string `koanf:"public_url"`
	// Tolerance is how old a timestamp may be, and how far in the future. 0: what the provider's row says.
	Tolerance time.Duration `koanf:"tolerance"`

	literal []string // development secrets, which stand in the documentation anyway
}

// AuthConfig says who may use everything but /hooks, /healthz and /readyz.
type AuthConfig struct {
	// Tokens are references to bearer tokens of at least 16 bytes. None: everybody, and only on loopback.
	Tokens []string `koanf:"tokens"`
}

// DefaultConfig returns the configuration of a node that nothing was set for: the embedded broker and no sources.
func DefaultConfig() Config {
	return Config{
		Listen: "127.0.0.1:8080", Data: "./penstock-data",
		Kafka: KafkaConfig{Embedded: "127.0.0.1:9092", Prefix: "penstock", Partitions: 8, Replication: 1},
		Spool: SpoolConfig{MaxBytes: 1 << 30, After: 1500 * time.Millisecond}, Deliveries: defaultDeliveries,
	}
}

// DevelopmentSecret and DevelopmentWhsec are the secrets of the development sources. They are public.
const (
	DevelopmentSecret = "penstock-dev-secret"
	DevelopmentWhsec  = "whsec_cGVuc3RvY2stZGV2ZWxvcG1lbnQtc2VjcmV0"
)

// DevelopmentConfig is DefaultConfig with one source for each of four providers, under the well-known secrets, and the
// read models of development.yaml.
func DevelopmentConfig() Config {
	c := DefaultConfig()
	c.Sources = map[string]SourceConfig{}
	for _, name := range []string{"github", "stripe", "slack", "standard"} {
		secret := DevelopmentSecret
		if name == "standard" {
			secret = DevelopmentWhsec
		}
		c.Sources[name] = SourceConfig{Provider: name, literal: []string{secret}}
	}
	c.Projections = developmentProjections()
	return c
}

// envKeys are the keys that the environment can set.
var envKeys = []string{"listen", "data", "kafka.brokers", "kafka.embedded", "kafka.prefix", "kafka.partitions", "kafka.replication", "auth.tokens",
	"spool.max_bytes", "spool.after", "tls.cert", "tls.key", "feeds.max_connections", "feeds.max_per_ip", "feeds.max_per_token", "feeds.memory", "feeds.lifetime", "feeds.origins", "feeds.deflate", "deliveries.keep", "deliveries.max",
	"public_url", "trusted_proxies", "proxy_header", "keep_refused", "max_connections", "max_in_flight"}

// envKey returns the key that an environment variable sets, or "".
func envKey(variable string) string {
	for _, key := range envKeys {
		if variable == "PENSTOCK_"+strings.ToUpper(strings.ReplaceAll(key, ".", "_")) {
			return key
		}
	}
	return ""
}

// keyRules are all keys of the file; anything else is a typing mistake that would silently change nothing.
var keyRules = []*regexp.Regexp{
	regexp.MustCompile(`^(listen|data|public_url|trusted_proxies|proxy_header|keep_refused|max_connections|max_in_flight|kafka\.(brokers|embedded|prefix|partitions|replication)|auth\.tokens|spool\.(max_bytes|after)|tls\.(cert|key)|feeds\.(max_connections|max_per_ip|max_per_token|memory|lifetime|origins|deflate)|deliveries\.(keep|max))$`),
	regexp.MustCompile(`^sources\.[^.]+\.(provider|secrets|stream|max_body|handshake|verify_token|verification|when|when\.[^.]+|allow|allow_file|limits\.(rate|burst|client_rate|client_burst)|content_types|public_url|tolerance)$`),
	regexp.MustCompile(`^providers\.[^.]+\.(docs|algorithm|header|encoding|key|layout|prefix|label|separator|assign|message|timestamp\.(header|key|body|unit|tolerance)|type|id|subject|repeats|content_types|max_body|inflated|keep)$`),
	regexp.MustCompile(`^projections(\.|$)`), // decodeProjection knows the others
}

// LoadConfig reads the file at path and the environment over DefaultConfig, and checks all of it. The error holds every
// problem, each with its line.
func LoadConfig(path string, environ []string) (Config, error) {
	c := DefaultConfig()
	content, err := os.ReadFile(path)
	if err != nil {
		return c, err
	}
	var doc yamlv3.Node
	if err := yamlv3.Unmarshal(content, &doc); err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	k := koanf.New(".")
	if err := k.Load(rawbytes.Provider(content), yaml.Parser()); err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	where := func(key string) string {
		if line := lineOf(&doc, strings.Split(key, ".")); line > 0 {
			return fmt.Sprintf("%s:%d: %s", path, line, key)
		}
		return fmt.Sprintf("%s: %s", path, key)
	}
	var problems []error
	for _, key := range k.Keys() {
		if !slices.ContainsFunc(keyRules, func(r *regexp.Regexp) bool { return r.MatchString(key) }) {
			problems = append(problems, fmt.Errorf("%s: no such key", where(key)))
		}
	}
	err = k.Load(env.Provider(".", env.Opt{EnvironFunc: func() []string { return environ }, TransformFunc: func(name, value string) (string, any) {
		key := envKey(name)
		if key == "kafka.brokers" || key == "auth.tokens" || key == "feeds.origins" || key == "trusted_proxies" {
			return key, strings.Split(value, ",")
		}
		return key, value // an empty key is left out
	}}), nil)
	if err != nil {
		return c, err
	}
	err = k.UnmarshalWithConf("", &c, koanf.UnmarshalConf{DecoderConfig: &mapstructure.DecoderConfig{
		Result: &c, WeaklyTypedInput: true, DecodeHook: mapstructure.ComposeDecodeHookFunc(decodeSecretRef, decodeRules, decodeProjection, mapstructure.StringToTimeDurationHookFunc()),
	}})
	if err != nil {
		problems = append(problems, fmt.Errorf("%s: %w", path, err))
	}
	for _, p := range c.problems() {
		problems = append(problems, p.at(path, content, &doc))
	}
	return c, errors.Join(problems...)
}

// lineOf finds the line of the deepest part of key that stands in the document.
func lineOf(n *yamlv3.Node, key []string) int {
	if n.Kind == yamlv3.DocumentNode && len(n.Content) > 0 {
		return lineOf(n.Content[0], key)
	}
	if len(key) == 0 || n.Kind != yamlv3.MappingNode {
		return n.Line
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key[0] {
			if len(key) == 1 {
				return n.Content[i].Line
			}
			return max(n.Content[i].Line, lineOf(n.Content[i+1], key[1:]))
		}
	}
	return n.Line
}

// problem is something wrong with one key.
type problem struct {
	key string
	err error
}

// Check reports everything that is wrong, each problem with its key.
func (c Config) Check() error {
	var errs []error
	for _, p := range c.problems() {
		errs = append(errs, fmt.Errorf("%s: %w", p.key, p.err))
	}
	return errors.Join(errs...)
}

func (c Config) problems() (all []problem) {
	add := func(key, format string, args ...any) { all = append(all, problem{key, fmt.Errorf(format, args...)}) }
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		add("listen", "%w", err)
	} else if !loopback(host) && len(c.Auth.Tokens) == 0 {
		add("listen", "%s is reachable from other machines: set auth.tokens first, or listen on 127.0.0.1", c.Listen)
	}
	if c.Data == "" {
		add("data", "a folder is needed")
	}
	if len(c.Kafka.Brokers) == 0 {
		if host, _, err := net.SplitHostPort(c.Kafka.Embedded); err != nil {
			add("kafka.embedded", "%w", err)
		} else if !loopback(host) {
			add("kafka.embedded", "the embedded broker has no authentication and listens on loopback only")
		}
	}
	for _, b := range c.Kafka.Brokers {
		if _, _, err := net.SplitHostPort(b); err != nil {
			add("kafka.brokers", "%w", err)
		}
	}
	if !regexp.MustCompile(`^[a-zA-Z0-9._-]{1,100}$`).MatchString(c.Kafka.Prefix) {
		add("kafka.prefix", "%q: up to 100 letters, digits, '.', '_' and '-'", c.Kafka.Prefix)
	}
	if c.Kafka.Partitions < 1 || c.Kafka.Partitions > 256 {
		add("kafka.partitions", "between 1 and 256, not %d", c.Kafka.Partitions)
	}
	if c.Kafka.Replication < 1 {
		add("kafka.replication", "at least 1, not %d", c.Kafka.Replication)
	}
	if m := c.Spool.MaxBytes; m != 0 && (m < 1<<20 || m > 1<<40) {
		add("spool.max_bytes", "between 1 MiB and 1 TiB, or 0 for no spool, not %d", m)
	}
	if a := c.Spool.After; c.Spool.MaxBytes > 0 && (a < 50*time.Millisecond || a > 2*time.Second) {
		add("spool.after", "between 50ms and 2s, not %s", a)
	}
	all = append(all, c.Deliveries.problems()...)
	all = append(all, c.Feeds.problems()...)
	all = append(all, c.TLS.problems()...)
	if _, err := c.proxies(); err != nil {
		add("trusted_proxies", "%w", err)
	}
	if h := c.ProxyHeader; h != "" && !strings.EqualFold(h, "X-Forwarded-For") && !strings.EqualFold(h, "Forwarded") {
		add("proxy_header", "X-Forwarded-For or Forwarded, not %q", h)
	}
	if c.KeepRefused < 0 || c.KeepRefused > 10_000 {
		add("keep_refused", "between 0 and 10000, not %d", c.KeepRefused)
	}
	if c.MaxConnections < 0 {
		add("max_connections", "at least 1, or 0 for the default, not %d", c.MaxConnections)
	}
	if m := c.MaxInFlight; m != 0 && (m < 64<<10 || m > 64<<30) {
		add("max_in_flight", "between 64 KiB and 64 GiB, or 0 for the default, not %d", m)
	}
	all = append(all, c.openDoors()...)
	all = append(all, c.rowProblems()...)
	all = append(all, c.projectionProblems()...)
	for _, name := range slices.Sorted(maps.Keys(c.Sources)) {
		for _, p := range c.Sources[name].problems(c, name) {
			all = append(all, problem{"sources." + name + p.key, p.err})
		}
	}
	for _, ref := range c.Auth.Tokens {
		if token, err := resolve(ref); err != nil {
			add("auth.tokens", "%w", err)
		} else if len(token) < 16 {
			add("auth.tokens", "the token of %s is shorter than 16 bytes", ref)
		}
	}
	return all
}

// problems checks one source by having package ingress build it alone.
func (s SourceConfig) problems(c Config, name string) (all []problem) {
	if _, own := c.Providers[s.Provider]; own {
		if _, ok := c.Provider(s.Provider); !ok {
			return nil // said of the row
		}
	} else if _, ok := ingress.ProviderNamed(s.Provider); !ok {
		return []problem{{".provider", fmt.Errorf("no provider %q; there are %s", s.Provider, strings.Join(append(sortedKeys(c.Providers), providerNames()...), ", "))}}
	}
	if err := checkSecrets(s.Secrets, time.Now()); err != nil {
		return []problem{{".secrets", err}}
	}
	if found := s.conditionProblems(); len(found) > 0 {
		return found
	}
	source, err := c.source(name)
	if err != nil {
		return []problem{{".secrets", err}}
	}
	if _, err := ingress.New(ingress.Config{Sources: []ingress.Source{source}, Append: nowhere}); err != nil {
		return []problem{{"", err}}
	}
	return nil
}

func providerNames() (names []string) {
	for _, p := range ingress.Providers {
		names = append(names, p.Name)
	}
	return names
}

// source resolves the secrets.
func (s SourceConfig) source(name string) (ingress.Source, error) {
	out := ingress.Source{Name: name, Provider: s.Provider, Stream: s.Stream, MaxBody: s.MaxBody, Handshake: s.Handshake}
	for _, l := range s.literal {
		out.Secrets = append(out.Secrets, ingress.Key{Secret: ingress.Secret(l)})
	}
	for _, ref := range s.Secrets {
		secret, err := resolve(ref.Ref)
		if err != nil {
			return out, err
		}
		out.Secrets = append(out.Secrets, ingress.Key{Secret: ingress.Secret(secret), From: ref.From, Until: ref.Until})
	}
	if s.VerifyToken != "" {
		token, err := resolve(s.VerifyToken)
		if err != nil {
			return out, fmt.Errorf("verify_token: %w", err)
		}
		out.VerifyToken = token
	}
	s.conditions(&out)
	if len(out.Secrets) == 0 && !out.Unverified && !ingress.TeachesSecret(s.Provider) {
		return out, errors.New("a source needs a secret: without one anybody could send in its name")
	}
	return out, nil
}

// resolve reads a secret by reference: env:NAME or file:PATH, without a trailing line end. Errors never show it.
func resolve(ref string) ([]byte, error) {
	kind, name, _ := strings.Cut(ref, ":")
	switch kind {
	case "env":
		if v := os.Getenv(name); v != "" {
			return []byte(v), nil
		}
		return nil, fmt.Errorf("environment variable %s is not set", name)
	case "file":
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		b = []byte(strings.TrimRight(string(b), "\r\n"))
		if len(b) == 0 {
			return nil, fmt.Errorf("file %s is empty", name)
		}
		return b, nil
	}
	return nil, errors.New("secrets are given by reference, as env:NAME or file:PATH, never in the file itself")
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
