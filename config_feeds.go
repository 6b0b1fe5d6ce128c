package penstock

import (
	"fmt"
	"time"

	"github.com/penstock-io/penstock/egress"
)

// FeedsConfig bounds the feeds. What is 0 has the default.
type FeedsConfig struct {
	// MaxConnections bounds the feeds of this node. Default 10,000.
	MaxConnections int `koanf:"max_connections"`
	// MaxPerIP bounds the feeds from one IPv4 address or IPv6 /64. Default 1,000.
	MaxPerIP int `koanf:"max_per_ip"`
	// MaxPerToken bounds the feeds that come with one of Auth.Tokens. Default: MaxConnections.
	MaxPerToken int `koanf:"max_per_token"`
	// Memory is how many bytes of the newest events, and as much of the newest outcomes, are kept to serve feeds from.
	// Older ones are read from Kafka. Default 64 MiB.
	Memory int64 `koanf:"memory"`
	// Lifetime ends a feed, less up to a fifth; its client goes on from its cursor. Default 15 minutes; negative: never.
	Lifetime time.Duration `koanf:"lifetime"`
	// Origins are the hosts of web pages, besides this node's own, that may follow feeds and read what is under /v1.
	Origins []string `koanf:"origins"`
	// Deflate compresses WebSocket messages for clients that ask for it. It costs about 1 KiB of memory and much time
	// for every connection.
	Deflate bool `koanf:"deflate"`
}

func (c FeedsConfig) problems() (all []problem) {
	for _, bound := range []struct {
		key   string
		value int
	}{{"max_connections", c.MaxConnections}, {"max_per_ip", c.MaxPerIP}, {"max_per_token", c.MaxPerToken}} {
		if bound.value < 0 {
			all = append(all, problem{"feeds." + bound.key, fmt.Errorf("at least 1, or 0 for the default, not %d", bound.value)})
		}
	}
	if c.Memory != 0 && (c.Memory < 64<<10 || c.Memory > 64<<30) {
		all = append(all, problem{"feeds.memory", fmt.Errorf("between 64 KiB and 64 GiB, or 0 for the default, not %d", c.Memory)})
	}
	if c.Lifetime > 0 && c.Lifetime < 10*time.Second {
		all = append(all, problem{"feeds.lifetime", fmt.Errorf("at least 10s, or negative for no end, not %s", c.Lifetime)})
	}
	if len(all) > 0 {
		return all
	}
	if _, err := egress.New(egress.Config{Origins: c.Origins}); err != nil {
		all = append(all, problem{"feeds.origins", err})
	}
	return all
}
