package penstock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/spf13/cobra"
)

// topicsPatience bounds a look at the topics, brokers that don't answer included.
const topicsPatience = 30 * time.Second

func topicsCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "topics", Short: "Create and check the Kafka topics", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.PersistentFlags().StringVarP(&file, "config", "c", "penstock.yaml", "configuration file")
	with := func(do func(context.Context, eventstore.Config, io.Writer) error) func(*cobra.Command, []string) error {
		return func(cmd *cobra.Command, _ []string) error {
			cfg, err := LoadConfig(file, os.Environ())
			if err != nil {
				return &problemList{err}
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), topicsPatience)
			defer cancel()
			err = do(ctx, cfg.log(), cmd.OutOrStdout())
			if err != nil && len(cfg.Kafka.Brokers) == 0 && domain.ClassOf(err) == domain.Unavailable {
				err = fmt.Errorf("%w (no kafka.brokers are set: the embedded broker is there only while penstock serve runs)", err)
			}
			return err
		}
	}
	cmd.AddCommand(
		&cobra.Command{
			Use: "check", Short: "Look at the topics, say everything that is wrong, and change nothing", Args: cobra.NoArgs,
			RunE: with(checkTopics),
		},
		&cobra.Command{
			Use: "create", Short: "Create the topics that are missing", Args: cobra.NoArgs,
			RunE: with(createTopics),
		},
	)
	return cmd
}

// log is where the topics are: on the brokers, or on the embedded one of a node that runs.
func (c Config) log() eventstore.Config {
	brokers := c.Kafka.Brokers
	if len(brokers) == 0 {
		brokers = []string{c.Kafka.Embedded}
	}
	return eventstore.Config{Brokers: brokers, Prefix: c.Kafka.Prefix, Partitions: c.Kafka.Partitions, Replication: c.Kafka.Replication}
}

var errTopics = errors.New("something is wrong with the topics")

func checkTopics(ctx context.Context, cfg eventstore.Config, w io.Writer) error {
	r, err := eventstore.CheckTopics(ctx, cfg)
	if err != nil {
		return fmt.Errorf("check the topics on %s: %w", strings.Join(cfg.Brokers, ","), err)
	}
	fmt.Fprintf(w, "cluster %s\n", r.Cluster)
	if len(r.Topics) > 0 {
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "TOPIC\tPARTITIONS\tREPLICATION\tKEPT\tSTART\tEND")
		for _, topic := range r.Topics {
			fmt.Fprintf(t, "%s\t%d\t%d\t%s\t%s\t%s\n", topic.Name, topic.Partitions, topic.Replication, keptFor(topic.Retention), offsets(topic.Start), offsets(topic.End))
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	for _, p := range r.Problems {
		fmt.Fprintln(w, "problem:", p)
	}
	if n := len(r.Problems); n > 0 {
		return fmt.Errorf("%w: %d problems", errTopics, n)
	}
	_, err = fmt.Fprintln(w, "the topics are fine")
	return err
}

func createTopics(ctx context.Context, cfg eventstore.Config, w io.Writer) error {
	created, err := eventstore.CreateTopics(ctx, cfg)
	for _, name := range created { // also when a later one failed
		fmt.Fprintf(w, "created %s: %d partitions, replication %d\n", name, cfg.Partitions, cfg.Replication)
	}
	if err != nil {
		return fmt.Errorf("create the topics on %s: %w", strings.Join(cfg.Brokers, ","), err)
	}
	if len(created) == 0 {
		fmt.Fprintln(w, "nothing to create")
	}
	return nil
}

func keptFor(d time.Duration) string {
	switch {
	case d < 0:
		return "for ever"
	case d%(24*time.Hour) == 0:
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	}
	return d.String()
}

// offsets are those of all partitions in order, or one that they share.
func offsets(next []int64) string {
	if len(next) == 0 {
		return "?"
	}
	if len(slices.Compact(slices.Clone(next))) == 1 {
		return strconv.FormatInt(next[0], 10)
	}
	texts := make([]string, len(next))
	for i, n := range next {
		texts[i] = strconv.FormatInt(n, 10)
	}
	return strings.Join(texts, ",")
}
