// The service of a quickstart with Dapr's Go SDK: its HTTP service and its client.
package main

import (
	"context"
	"encoding/json"
	"log"
	"net/http"
	"os"

	dapr "github.com/dapr/go-sdk/client"
	"github.com/dapr/go-sdk/service/common"
	daprd "github.com/dapr/go-sdk/service/http"
)

const (
	jsonType = "application/json"
	store    = "statestore"
	bus      = "pubsub"
	topic    = "orders"
)

type order struct {
	OrderID string `json:"orderId"`
	SavedBy string `json:"savedBy,omitempty"`
}

type app struct {
	client dapr.Client
}

func (a app) checkout(ctx context.Context, in *common.InvocationEvent) (*common.Content, error) {
	content := &dapr.DataContent{ContentType: jsonType, Data: in.Data}
	answer, err := a.client.InvokeMethodWithContent(ctx, os.Getenv("NEXT"), "orders", "post", content)
	if err != nil {
		return nil, err
	}
	err = a.client.PublishEvent(ctx, bus, topic, in.Data, dapr.PublishEventWithContentType(jsonType))
	return &common.Content{ContentType: jsonType, Data: answer}, err
}

func (a app) orders(ctx context.Context, in *common.InvocationEvent) (*common.Content, error) {
	var placed, saved order
	if err := json.Unmarshal(in.Data, &placed); err != nil {
		return nil, err
	}
	if err := a.client.SaveState(ctx, store, placed.OrderID, in.Data, nil); err != nil {
		return nil, err
	}
	item, err := a.client.GetState(ctx, store, placed.OrderID, nil)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(item.Value, &saved); err != nil {
		return nil, err
	}
	saved.SavedBy = os.Getenv("APP_ID")
	data, err := json.Marshal(saved)
	return &common.Content{ContentType: jsonType, Data: data}, err
}

func (a app) received(ctx context.Context, event *common.TopicEvent) (retry bool, err error) {
	var placed order
	if err := event.Struct(&placed); err != nil {
		return false, err
	}
	return true, a.client.SaveState(ctx, store, "received-"+placed.OrderID, event.RawData, nil)
}

func main() {
	client, err := dapr.NewClient()
	if err != nil {
		log.Fatal(err)
	}
	app := app{client}
	service := daprd.NewService("127.0.0.1:" + os.Getenv("APP_PORT"))
	subscription := &common.Subscription{PubsubName: bus, Topic: topic, Route: "/received"}
	for _, err := range []error{
		service.AddServiceInvocationHandler("/checkout", app.checkout),
		service.AddServiceInvocationHandler("/orders", app.orders),
		service.AddTopicEventHandler(subscription, app.received),
	} {
		if err != nil {
			log.Fatal(err)
		}
	}
	if err := service.Start(); err != nil && err != http.ErrServerClosed {
		log.Fatal(err)
	}
}
