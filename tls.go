package penstock

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// TLSConfig lets the node speak HTTPS itself. Browsers speak HTTP/2 over TLS alone, and only HTTP/2 carries more than six
// feeds of a page; behind a proxy that does it this is not needed.
type TLSConfig struct {
	// Cert and Key are files in PEM. They are read again when they change.
	Cert string `koanf:"cert"`
	Key  string `koanf:"key"`
}

func (c TLSConfig) on() bool { return c.Cert != "" }

func (c TLSConfig) problems() (all []problem) {
	switch {
	case (c.Cert == "") != (c.Key == ""):
		return []problem{{"tls", errors.New("cert and key go together")}}
	case c.on():
		if _, err := tls.LoadX509KeyPair(c.Cert, c.Key); err != nil {
			return []problem{{"tls.cert", err}}
		}
	}
	return nil
}

// certificate is a key pair that follows its files.
type certificate struct {
	files  TLSConfig
	logger *slog.Logger

	mu      sync.Mutex
	pair    *tls.Certificate
	changed time.Time // of the files that pair was read from
	looked  time.Time
}

// certificateLook is how often the files are looked at, at most.
const certificateLook = 10 * time.Second

// get returns the newest pair that can be read: what is broken on the way of a renewal doesn't end the service.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if c.pair != nil && now.Sub(c.looked) < certificateLook {
		return c.pair, nil
	}
	c.looked = now
	changed, err := c.newest()
	if err == nil && (c.pair == nil || !changed.Equal(c.changed)) {
		var pair tls.Certificate
		if pair, err = tls.LoadX509KeyPair(c.files.Cert, c.files.Key); err == nil {
			c.pair, c.changed = &pair, changed
		}
	}
	if c.pair == nil {
		return nil, fmt.Errorf("read the certificate: %w", err)
	}
	if err != nil {
		c.logger.Error("the certificate can't be read; the last one is used on", "cert", c.files.Cert, "error", err)
	}
	return c.pair, nil
}

func (c *certificate) newest() (time.Time, error) {
	var newest time.Time
	for _, name := range []string{c.files.Cert, c.files.Key} {
		info, err := os.Stat(name)
		if err != nil {
			return newest, err
		}
		if info.ModTime().After(newest) {
			newest = info.ModTime()
		}
	}
	return newest, nil
}

// accept serves HTTP/1.1 and HTTP/2 on the listener: over TLS if that is configured, and else in the clear, where HTTP/2
// is for proxies and programs that know that it is there.
func (n *Node) accept(server *http.Server, listener net.Listener) error {
	server.Protocols = new(http.Protocols)
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetHTTP2(true)
	if !n.cfg.TLS.on() {
		server.Protocols.SetUnencryptedHTTP2(true)
		return server.Serve(listener)
	}
	c := &certificate{files: n.cfg.TLS, logger: n.logger}
	server.TLSConfig = &tls.Config{GetCertificate: c.get, MinVersion: tls.VersionTLS12}
	return server.ServeTLS(listener, "", "")
}

func (c Config) scheme() string {
	if c.TLS.on() {
		return "https://"
	}
	return "http://"
}
