package penstock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"reflect"
	"slices"
	"strings"
	"syscall"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/ingress"
	"github.com/prometheus/client_golang/prometheus"
)

// reloadable are the parts of a configuration that a running node takes over; what else has changed waits for a restart.
var reloadable = []string{"Sources", "Providers", "PublicURL", "Auth"}

// Reload takes over the sources and the tokens of cfg, secrets read anew: all of them, or, if anything in cfg is wrong,
// nothing. Requests in hand finish with what they began with; none is refused because of it. It returns the keys that
// have changed too and need a restart.
func (n *Node) Reload(cfg Config) (restart []string, err error) {
	n.reloading.Lock()
	defer n.reloading.Unlock()
	defer func() {
		result := "ok"
		if err != nil {
			result = "refused"
		}
		n.reloads.WithLabelValues(result).Inc()
	}()
	select {
	case <-n.started:
	default:
		return nil, &domain.Error{Class: domain.Unavailable, Message: "the node has not started yet"}
	}
	next := n.cfg.taking(cfg)
	if err := errors.Join(next.Check(), next.besides(n.app)); err != nil {
		return nil, err
	}
	sources, err := next.ingressSources()
	if err != nil {
		return nil, err
	}
	tokens, err := next.tokenHashes()
	if err != nil {
		return nil, err
	}
	if err := n.hooks.Reload(sources); err != nil {
		return nil, err
	}
	n.auth.Store(&tokens) // nothing can fail any more
	return restartKeys(n.cfg, cfg), nil
}

// taking is the configuration of a running node with what it takes over of another. It is this one that must be right:
// a node goes on listening where it does, whatever the file says of it by now.
func (c Config) taking(other Config) Config {
	into, from := reflect.ValueOf(&c).Elem(), reflect.ValueOf(other)
	for _, name := range reloadable {
		into.FieldByName(name).Set(from.FieldByName(name))
	}
	return c
}

// restartKeys names the keys in which two configurations differ, and which a running node doesn't take over.
func restartKeys(old, new Config) (keys []string) {
	a, b := reflect.ValueOf(old), reflect.ValueOf(new)
	for i := range a.NumField() {
		f := a.Type().Field(i)
		if !slices.Contains(reloadable, f.Name) && !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			keys = append(keys, f.Tag.Get("koanf"))
		}
	}
	return keys
}

// besides checks that no source writes among the events that the business decides on: its name is the category of its
// streams.
func (c Config) besides(app App) error {
	for _, d := range app.Deciders {
		if _, taken := c.Sources[d.Owns()]; taken {
			return fmt.Errorf("sources.%s: the business decides over the streams of category %q; call the source something else", d.Owns(), d.Owns())
		}
	}
	return c.names(app)
}

// ingressSources resolves the secrets of all sources.
func (c Config) ingressSources() (sources []ingress.Source, err error) {
	for _, name := range sortedKeys(c.Sources) {
		s, err := c.source(name)
		if err != nil {
			return nil, fmt.Errorf("source %s: %w", name, err)
		}
		sources = append(sources, s)
	}
	return sources, nil
}

func newReloads() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "penstock_config_reloads_total",
		Help: "Times the configuration was read again, by result: ok, or refused because something in it is wrong.",
	}, []string{"result"})
}

// reloadOnHangup reads the configuration again at each SIGHUP, until stop is called, and says what came of it. Call it
// before the node runs: by default the signal ends the process.
func (n *Node) reloadOnHangup(ctx context.Context) (stop func()) {
	hangups := make(chan os.Signal, 1) // one that comes while another is served waits for its turn
	signal.Notify(hangups, syscall.SIGHUP)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangups:
			}
			select {
			case <-ctx.Done():
				return
			case <-n.started:
				n.sayReread()
			}
		}
	}()
	return func() {
		signal.Stop(hangups)
		cancel()
		<-done
	}
}

func (n *Node) sayReread() {
	switch _, restart, err := n.reread(); {
	case err != nil:
		n.logger.Error("the configuration is refused, nothing has changed", "problems", strings.ReplaceAll(err.Error(), "\n", "; "))
	case len(restart) > 0:
		n.logger.Warn("the configuration is in force, but for what needs a restart", "restart", strings.Join(restart, ","))
	default:
		n.logger.Info("the configuration is in force")
	}
}

// rereadForAPI is reread for those who ask over HTTP; nil without a file.
func (n *Node) rereadForAPI() func() (sources int, restart []string, err error) {
	if n.load == nil {
		return nil
	}
	return n.reread
}

// reread reads the node's configuration file again and takes it over.
func (n *Node) reread() (sources int, restart []string, err error) {
	cfg, err := n.load()
	if err != nil {
		n.reloads.WithLabelValues("refused").Inc()
		return 0, nil, err
	}
	restart, err = n.Reload(cfg)
	return len(cfg.Sources), restart, err
}
