package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"

	"github.com/penstock-io/penstock/client"
)

// A program that prints what is paid, from where it was when it ended.
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	cursor, _ := os.ReadFile("cursor") // none yet: from the beginning
	err := client.Follow(ctx, "http://127.0.0.1:8080/v1/events?type=billing.*", client.Options{
		Cursor: string(cursor), From: "earliest",
		Notice: func(n client.Notice) { log.Printf("%+v", n) },
	}, func(m client.Message) error {
		if m.Kind == client.KindEvent {
			e, err := m.Event()
			if err != nil {
				return err
			}
			fmt.Println(e.Subject, e.Type, string(e.Body()))
		}
		if m.Cursor == "" {
			return nil // within a page: the one before holds on
		}
		return os.WriteFile("cursor", []byte(m.Cursor), 0o600)
	})
	if r, ok := errors.AsType[*client.Refused](err); ok && r.Kind() == "expired" {
		log.Fatal("some events are gone; begin again from ", r.Earliest)
	}
}

// A copy of a read model's rows, kept current.
func ExampleFollow_rows() {
	copied := map[string]string{}
	url := "https://penstock.example.com/v1/projections/balances/changes?snapshot=true"
	err := client.Follow(context.Background(), url, client.Options{
		OnGap: "earliest", // of rows: all of them again
		Token: func(context.Context) (string, error) { return os.Getenv("PENSTOCK_TOKEN"), nil },
	}, func(m client.Message) error {
		switch m.Kind {
		case client.KindReset:
			clear(copied)
		case client.KindRow, client.KindChange:
			c, err := m.Change()
			if err != nil {
				return err
			}
			if c.Op == "delete" {
				delete(copied, c.Key)
			} else {
				copied[c.Key] = string(c.Row)
			}
		}
		return nil
	})
	log.Print(err)
}
