//! Row `start`: from the start of the process to ready, memory of an idle service, size of its
//! program and image.

use std::{
    fs::{self, File},
    io,
    path::Path,
    thread,
    time::Duration,
};

use anyhow::Result;
use blackbox::{Image, Service, peer_images, progress::step, reference};
use flate2::{Compression, write::GzEncoder};

use crate::{
    plane::Plane,
    programs::Programs,
    row::{Prepared, Reading, Row, Side, Size, Unit},
    usage::{megabytes, milliseconds},
};

/// The row.
#[derive(Debug)]
pub struct Start;

struct Started {
    plane: Plane,
    programs: Programs,
    settle: Duration,
    /// Sizes of programs and images: they do not change from round to round.
    sizes: Vec<(Side, Reading)>,
}

impl Row for Start {
    fn name(&self) -> &'static str {
        "start"
    }

    fn about(&self) -> &'static str {
        "Each service as a process against a real API server, with certificates from a sentry: time \
         until /healthz answers 200; memory after a minute without work; size of the program and of \
         its image, compressed (both sides' images are made in the same way: program, certificate \
         authorities, nothing else but our bill of materials)"
    }

    fn services(&self) -> &'static [Service] {
        &Service::ALL
    }

    fn prepare(&self, programs: &Programs, size: Size) -> Result<Box<dyn Prepared>> {
        let settle = size.pick(Duration::from_mins(1), Duration::from_secs(10));
        let plane = Plane::start(programs)?;
        let sizes = step("sizes of programs and images", || sizes(programs, plane.folder()))?;
        Ok(Box::new(Started { plane, programs: programs.clone(), settle, sizes }))
    }
}

impl Prepared for Started {
    fn round(&mut self, side: Side) -> Result<Vec<Reading>> {
        let mut readings = Vec::new();
        let mut running = Vec::new();
        for service in Service::ALL {
            let name = service.binary();
            let start = self.plane.service(&self.programs, side, service, &[])?;
            let (service_running, took) = start.ready()?;
            let metric = format!("{name}: start to ready");
            readings.push(Reading::new(metric, Unit::Milliseconds, milliseconds(took)));
            running.push((name, service_running));
        }
        thread::sleep(self.settle);
        let mut total = (0, 0);
        for (name, running) in &running {
            let memory = running.memory()?;
            total = (total.0 + memory.rss, total.1 + memory.anonymous);
            readings.extend(memory_readings(name, memory.rss, memory.anonymous));
        }
        readings.extend(memory_readings("all four", total.0, total.1));
        let sizes = self.sizes.iter().filter(|(of, _)| *of == side);
        readings.extend(sizes.map(|(_, reading)| reading.clone()));
        for (_, running) in running {
            running.stop()?;
        }
        Ok(readings)
    }
}

fn sizes(programs: &Programs, folder: &Path) -> Result<Vec<(Side, Reading)>> {
    let mut sizes = Vec::new();
    for service in Service::ALL {
        let binary = service.binary();
        let name = format!("localhost/{binary}:1");
        for side in Side::BOTH {
            let image = match side {
                Side::Reference => reference::image(service, &name)?,
                Side::Trilby => peer_images::service(service, &name, programs.profile())?,
            };
            let program = fs::metadata(programs.path(side, service)?)?.len();
            for (what, bytes) in [("program", program), ("image", compressed(&image, folder)?)] {
                let metric = format!("{binary}: {what}");
                sizes.push((side, Reading::new(metric, Unit::Megabytes, megabytes(bytes))));
            }
        }
    }
    Ok(sizes)
}

/// The size of an image as registries keep it: compressed with gzip.
fn compressed(image: &Image, folder: &Path) -> Result<u64> {
    let [archive, packed] = ["image.tar", "image.tar.gz"].map(|name| folder.join(name));
    image.write(&archive)?;
    let mut encoder = GzEncoder::new(File::create(&packed)?, Compression::default());
    io::copy(&mut File::open(&archive)?, &mut encoder)?;
    Ok(encoder.finish()?.metadata()?.len())
}

fn memory_readings(who: &str, rss: u64, anonymous: u64) -> [Reading; 2] {
    let reading = |what, bytes| {
        Reading::new(format!("{who}: idle {what}"), Unit::Megabytes, megabytes(bytes))
    };
    [reading("RSS", rss), reading("RssAnon", anonymous)]
}
