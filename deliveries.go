package penstock

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/penstock-io/penstock/projections"
	"github.com/penstock-io/penstock/replays"
)

// DeliveriesConfig says how far the delivery log reaches back. It should be the same on every node: each keeps a log of
// its own, which tells the same.
type DeliveriesConfig struct {
	// Keep is how long a delivery is shown after it was received. Default 720h, which is 30 days and as long as the inbox
	// has the requests.
	Keep time.Duration `koanf:"keep"`
	// Max bounds it, whatever its age, in inbox entries of each partition. Default 5 million; a delivery takes about 1 KB.
	Max int64 `koanf:"max"`
}

var defaultDeliveries = DeliveriesConfig{Keep: 30 * 24 * time.Hour, Max: 5_000_000}

func (c DeliveriesConfig) projection() projections.Deliveries {
	return projections.Deliveries{Keep: c.Keep, Most: c.Max}
}

func (c DeliveriesConfig) problems() (all []problem) {
	if c.Keep < time.Hour || c.Keep > 10*365*24*time.Hour {
		all = append(all, problem{"deliveries.keep", fmt.Errorf("between 1h and 87600h, not %s", c.Keep)})
	}
	if c.Max < 1000 || c.Max > 1_000_000_000 {
		all = append(all, problem{"deliveries.max", fmt.Errorf("between a thousand and a billion, not %d", c.Max)})
	}
	return all
}

// composeReplays builds what stands on the delivery log.
func (n *Node) composeReplays() (err error) {
	deliveries, _ := n.engine.View(projections.Deliveries{}.Name())
	parked, _ := n.engine.View(projections.Parked{}.Name())
	if err := projections.RegisterDeliveryMetrics(n.metrics, deliveries, parked, sortedKeys(n.cfg.Sources)); err != nil {
		return err
	}
	n.replays, err = replays.New(replays.Config{
		Log: n.log, History: n.history, Deliveries: deliveries, Append: n.pressure.Append, Dir: filepath.Join(n.cfg.Data, "replays"),
		Logger: n.logger, Metrics: n.metrics,
	})
	return err
}
