//! A TCP proxy that makes a network bad. A kernel without `netem` has no other means, and these need no privileges.
//!
//! TCP hides lost and reordered packets from programs: what they see of loss is time, until a connection breaks; what they
//! see of reordering is that one connection overtakes another. So the proxy delays each piece by a random time of its own
//! (connections overtake each other), holds everything back while it is cut (as behind a firewall that drops packets, where
//! nobody is told anything), and breaks connections in the middle of a message.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    time::sleep,
};

/// How bad the network is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// Nothing passes.
    pub cut: bool,
    /// Each piece of up to 16 KiB takes a random time up to this.
    pub delay: Duration,
    /// Counts how often all connections were broken.
    breaks: u64,
}

/// See the module. It serves as long as its runtime lasts.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Where it listens.
    pub address: String,
    weather: Arc<watch::Sender<Weather>>,
}

impl Proxy {
    /// A proxy to `target` at a port that the system chooses.
    ///
    /// # Errors
    /// There is no port to be had.
    pub async fn to(target: String) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        // Thousands of agents may come at once.
        let listener = socket.listen(4096)?;
        let address = listener.local_addr()?.to_string();
        let weather = Arc::new(watch::Sender::new(Weather::default()));
        tokio::spawn(serve(listener, target, weather.clone()));
        Ok(Self { address, weather })
    }

    /// Cuts it, or lets everything through again that was held back.
    pub fn set(&self, open: bool) {
        self.weather.send_modify(|weather| weather.cut = !open);
    }

    /// Delays each piece by a random time up to this.
    pub fn delay(&self, delay: Duration) {
        self.weather.send_modify(|weather| weather.delay = delay);
    }

    /// Breaks all connections, wherever in a message they are.
    pub fn break_all(&self) {
        self.weather.send_modify(|weather| weather.breaks += 1);
    }
}

async fn serve(listener: TcpListener, target: String, weather: Arc<watch::Sender<Weather>>) {
    while let Ok((near, _)) = listener.accept().await {
        let (target, weather) = (target.clone(), weather.subscribe());
        tokio::spawn(async move {
            let Ok(far) = TcpStream::connect(target).await else { return };
            for stream in [&near, &far] {
                // Without, it would add delays of its own.
                let _ = stream.set_nodelay(true);
            }
            let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
            let breaks = weather.borrow().breaks;
            let mut broken = weather.clone();
            tokio::select! {
                () = carry(from_near, to_far, weather.clone()) => {}
                () = carry(from_far, to_near, weather) => {}
                _ = broken.wait_for(|weather| weather.breaks != breaks) => {}
            }
        });
    }
}

async fn carry(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut weather: watch::Receiver<Weather>,
) {
    let mut random = ChaCha8Rng::from_rng(&mut rand::rng());
    let mut buffer = vec![0; 1 << 14];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let pause = random_part(&mut random, weather.borrow().delay);
        if !pause.is_zero() {
            sleep(pause).await;
        }
        if weather.wait_for(|weather| !weather.cut).await.is_err()
            || to.write_all(&buffer[..length]).await.is_err()
        {
            return;
        }
    }
}

fn random_part(random: &mut impl Rng, of: Duration) -> Duration {
    if of.is_zero() { of } else { of.mul_f64(random.random_range(0.0..1.0)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_cut_is_held_back_and_what_is_broken_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let proxy = Proxy::to(listener.local_addr().expect("bound").to_string()).await.expect("a port");
        let mut near = TcpStream::connect(&proxy.address).await.expect("connects");
        let (mut far, _) = listener.accept().await.expect("comes");
        let mut one = [0; 1];
        proxy.delay(Duration::from_millis(5));
        near.write_all(b"a").await.expect("written");
        far.read_exact(&mut one).await.expect("comes through");
        proxy.set(false);
        near.write_all(b"b").await.expect("written");
        let held = tokio::time::timeout(Duration::from_millis(100), far.read_exact(&mut one)).await;
        assert!(held.is_err(), "nothing passes");
        proxy.set(true);
        far.read_exact(&mut one).await.expect("comes through");
        assert_eq!(&one, b"b");
        proxy.break_all();
        assert!(!matches!(far.read(&mut one).await, Ok(1..)), "it ended");
    }
}
