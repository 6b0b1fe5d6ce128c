package eventstore

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kfake"
)

// Embedded is a Kafka broker inside this process, kept in a folder and synced at every write: the default without any
// Kafka at hand. It speaks the real protocol, so kcat and other teams' consumers work against it. One node, for
// development and small installations.
type Embedded struct {
	cluster *kfake.Cluster
	dir     string
	// Addr is the address it listens on.
	Addr string
}

// closedFile stands in the folder of a broker that was closed, and not killed.
const closedFile = "closed"

// StartEmbedded starts the broker on listen ("127.0.0.1:9092"; port 0 picks a free one) with its data in dir. The
// broker has no authentication, so an address beyond loopback is refused.
func StartEmbedded(listen, dir string, logger *slog.Logger) (*Embedded, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return nil, err
	}
	ip := net.ParseIP(host)
	if host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("%s is not a loopback address: the embedded broker has no authentication", listen)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return nil, fmt.Errorf("port %q: %w", port, err)
	}
	// kfake answers metadata with the address that it listens on.
	listener, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(n)))
	if err != nil {
		return nil, err
	}
	if err := recoverTransactions(dir, logger); err != nil {
		listener.Close()
		return nil, fmt.Errorf("recover the embedded broker's transactions in %s: %w", dir, err)
	}
	cluster, err := startCluster(listener, dir, logger)
	if err != nil {
		listener.Close()
		return nil, fmt.Errorf("start the embedded broker in %s: %w", dir, err)
	}
	return &Embedded{cluster: cluster, dir: dir, Addr: listener.Addr().String()}, nil
}

func startCluster(listener net.Listener, dir string, logger *slog.Logger) (*kfake.Cluster, error) {
	taken := false
	return kfake.NewCluster(
		kfake.NumBrokers(1),
		kfake.Ports(listener.Addr().(*net.TCPAddr).Port),
		kfake.ListenFn(func(network, address string) (net.Listener, error) {
			if !taken {
				taken = true
				return strictListener{listener, logger}, nil
			}
			other, err := net.Listen(network, address)
			return strictListener{other, logger}, err
		}),
		kfake.ClusterID("penstock-embedded"),
		kfake.DataDir(filepath.Clean(dir)),
		kfake.SyncWrites(),
		kfake.WithLogger(kfakeLogger{logger}),
		kfake.BrokerConfigs(map[string]string{"message.max.bytes": strconv.Itoa(MaxRecordBytes)}),
	)
}

// Close stops the broker and saves what it keeps besides the log.
func (e *Embedded) Close() {
	e.cluster.Close()
	// Without the file the next start looks for torn transactions, which does no harm.
	os.WriteFile(filepath.Join(e.dir, closedFile), nil, 0o600)
}

type kfakeLogger struct{ log *slog.Logger }

func (l kfakeLogger) Logf(level kfake.LogLevel, format string, args ...any) {
	text := "embedded broker: " + fmt.Sprintf(format, args...)
	switch {
	case level == kfake.LogLevelError, level == kfake.LogLevelWarn && !strings.Contains(text, "slow"):
		l.log.Warn(text)
	case level == kfake.LogLevelWarn:
		l.log.Debug(text) // a commit of more than 5 ms, which a busy disk makes of many
	}
}
