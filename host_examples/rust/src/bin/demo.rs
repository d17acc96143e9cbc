// The story that all the examples tell, with the crate one folder above.
//
// An echo server, then the demo; the plugin's command line may follow the URL:
//
// $ python3 -m venv .venv && .venv/bin/pip install .
// $ python3 host_examples/python/echo_server.py 8765 &
// $ cargo build --locked --manifest-path host_examples/rust/Cargo.toml --target-dir host_examples/rust/target
// $ host_examples/rust/target/debug/demo ws://127.0.0.1:8765/ .venv/bin/wsplugin

use std::process::ExitCode;

use wsplugin::{Error, Event, Host, Message, Options, Result};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let url = args.next().unwrap_or_else(|| "ws://127.0.0.1:8765/".to_owned());
    let command: Vec<String> = args.collect();
    let options = if command.is_empty() { Options::default() } else { Options::new(command) };
    match tell(&url, options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(ended @ Error::PluginEnded { .. }) => {
            eprintln!("PluginEnded: {ended}");
            ExitCode::FAILURE
        }
        Err(refused) => {
            eprintln!("{refused}");
            ExitCode::FAILURE
        }
    }
}

/// Run the plugin, tell the story, stop the plugin.
async fn tell(url: &str, options: Options) -> Result<()> {
    let host = Host::start(options).await?;
    let websocket = host.create(url, Default::default()).await?;
    while let Some(event) = websocket.next().await {
        match event {
            Event::Open(_) => {
                println!("open");
                websocket.send("Grüße 👋").await?;
            }
            Event::Message(Message::Text(text)) => {
                println!("text: {text}");
                websocket.send(vec![0x00, 0x01, 0x7f, 0x80, 0xff]).await?;
            }
            Event::Message(Message::Binary(data)) => {
                let octets: Vec<String> = data.iter().map(|octet| format!("{octet:02x}")).collect();
                println!("binary: {}", octets.join(" "));
                websocket.close_with(1000, "done", None).await?;
            }
            Event::Error(error) => println!("error: {}: {}", error.code, error.message),
            Event::Close(close) => {
                println!("close: {} {} ({})", close.code, close.reason, close.cause);
            }
        }
    }
    match websocket.send("too late").await {
        Err(Error::Request { code, .. }) => println!("refused: {code}"),
        other => other?,
    }
    println!("exit status: {}", host.stop().await);
    Ok(())
}
